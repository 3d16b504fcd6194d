"""Canonical JSON and its digest. Equal data have equal text, so the digest identifies cells, arms and models.

Three spellings are in use. All of them stay, since a different digest would make every finished run unusable.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any


def canonical_bytes(
    value: Any, *, ascii_only: bool = True, compact: bool = False, default: Callable[[Any], Any] | None = None
) -> bytes:
    """JSON with sorted keys, as UTF-8 bytes.

    Args:
        value: Plain data.
        ascii_only: Write other characters as escapes.
        compact: Write no spaces after commas and colons.
        default: Function that converts a value which JSON cannot represent.
    """
    separators = (",", ":") if compact else None
    text = json.dumps(value, sort_keys=True, ensure_ascii=ascii_only, separators=separators, default=default)
    return text.encode()


def canonical_digest(value: Any, **options: Any) -> str:
    """sha256 of the canonical JSON, in hexadecimal. The options are those of `canonical_bytes`."""
    return hashlib.sha256(canonical_bytes(value, **options)).hexdigest()
