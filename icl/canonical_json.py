"""Plain data as the one text that equal data have, and its digest: what cells, arms and models are known by.

Three spellings are in use, and all of them stay: a digest that came out another would make every finished run foreign.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any


def canonical_bytes(
    value: Any, *, ascii_only: bool = True, compact: bool = False, default: Callable[[Any], Any] | None = None
) -> bytes:
    """JSON with sorted keys. ascii_only: other letters as escapes. default: for what JSON has no word for."""
    separators = (",", ":") if compact else None
    text = json.dumps(value, sort_keys=True, ensure_ascii=ascii_only, separators=separators, default=default)
    return text.encode()


def canonical_digest(value: Any, **options: Any) -> str:
    """sha256 of the canonical text. how: see `canonical`."""
    return hashlib.sha256(canonical_bytes(value, **options)).hexdigest()
