"""The words of an experiment file: its keys, which of them are axes, which hold components, and the defaults."""

from collections.abc import Mapping
from typing import Any

KINDS: Mapping[str, str] = {
    "task": "task",
    "model": "model",
    "retriever": "retriever",
    "order": "orderer",
    "transforms": "transform",
    "compose": "composer",
    "decoding": "strategy",
}
"""Keys that hold components, and the registry's word for what they hold."""

DEFAULTS: Mapping[str, Any] = {
    "shots": 0,
    "retriever": "random",
    "order": "reversed",
    "transforms": [],
    "compose": "chat",
    "decoding": "greedy",
    "score": "generate",
    "max_new_tokens": 16,
}
AXES: tuple[str, ...] = ("task", "model", *DEFAULTS)
KEYS: tuple[str, ...] = ("name", *AXES, "seeds", "metrics", "controls", "grid", "zip", "exclude", "compare")
FREE_AT_ZERO = ("retriever", "order")
"""Axes that cannot matter without demonstrations: one arm at 0 shots serves all of their values."""
SCORES = ("generate", "options")
CORRECTIONS = ("holm", "none")
