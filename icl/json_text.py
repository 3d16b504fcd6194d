"""Reads JSON of files that others wrote."""

import json
from typing import Any

MAX_DEPTH = 100
"""Levels of nesting. Deeper JSON is no configuration, and other code that walks it may reach Python's own limit."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: The text is no JSON, or its lists and objects are nested too deeply.
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
    """The JSON object of a text.

    Raises:
        ValueError: The text is no JSON object, or it is nested too deeply.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {value!r:.40}, not a JSON object")
    return value


def _items(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node
