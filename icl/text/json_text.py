"""Canonical JSON with digests, safe parsing of untrusted JSON, and the folded form of a text.

Equal values have equal canonical JSON, so the digest identifies cells, arms and models. Callers use three formats (see
the arguments). None of them can change, because a different digest would make every finished run unusable.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
"""Maximum nesting depth. Configurations are less deep, and recursive code could exceed Python's recursion limit."""


def canonical_bytes(
    value: Any, *, ascii_only: bool = True, compact: bool = False, default: Callable[[Any], Any] | None = None
) -> bytes:
    """JSON with sorted keys, as UTF-8 bytes.

    Args:
        value: Plain data.
        ascii_only: Escape non-ASCII characters.
        compact: Omit the spaces after commas and colons.
        default: Function that converts a value which JSON cannot represent.
    """
    separators = (",", ":") if compact else None
    text = json.dumps(value, sort_keys=True, ensure_ascii=ascii_only, separators=separators, default=default)
    return text.encode()


def canonical_digest(value: Any, **options: Any) -> str:
    """sha256 of the canonical JSON, in hexadecimal. Takes the options of `canonical_bytes`."""
    return hashlib.sha256(canonical_bytes(value, **options)).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: The text is not valid JSON, or its lists and objects are nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for node in level if isinstance(node, dict | list) for item in _items(node)]
        if not level:
            return value
    raise ValueError("its lists and objects are nested too deeply")


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: The text is not a JSON object, or it is nested too deeply.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {value!r:.40}, not a JSON object")
    return value


def _items(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node


def fold(text: str) -> str:
    """The text in Unicode NFKC and lower case, without markup, quotes, a leading article and punctuation around it."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = " ".join(re.sub(r"[*_`$\"“”]+|^#+|(?<!\w)'|'(?!\w)", " ", text).split())
    return re.sub(r"^(?:an?|the)\s+", "", re.sub(r"^(?:[ !,;:]|\.(?!\d))+|[ .!,;:]+$", "", text))
