"""Aggregations by name. Empty until `lmms_eval.api.metrics` is imported."""

from collections.abc import Callable
from typing import Any

AGGREGATIONS: dict[str, Callable[[list[Any]], Any]] = {}
