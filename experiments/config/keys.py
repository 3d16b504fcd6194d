"""The words of an experiment file: its keys, which of them are axes, which hold components, and the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from decoding.engine.requests import AnswerMode, LazyBranches
from icl.models.base import MAX_NEW_TOKENS

COMPONENT_KINDS: Mapping[str, str] = {
    "task": "task",
    "model": "model",
    "retriever": "retriever",
    "rerankers": "reranker",
    "order": "orderer",
    "transforms": "transform",
    "composer": "composer",
    "decoding": "strategy",
}
"""Keys that hold components, and the registry's word for what they hold."""

DEFAULTS: Mapping[str, Any] = {
    "shots": 0,
    "retriever": "random",
    "rerankers": [],
    "rerank_candidates": None,
    "order": "reversed",
    "transforms": [],
    "composer": "chat",
    "decoding": "greedy",
    "answer_mode": "generate",
    "max_new_tokens": MAX_NEW_TOKENS,
}
DEFAULT_REFERENCES: Mapping[str, str] = {axis: DEFAULTS[axis] for axis in ("retriever", "decoding")}
"""Axis -> what its other values are held against where nobody says: chance, and the model's own most probable token."""
AXES: tuple[str, ...] = ("task", "model", *DEFAULTS)
KEYS: tuple[str, ...] = (
    *("name", *AXES, "seeds", "metrics", "controls", "top_logprobs", "lazy_branches"),
    *("grid", "zip", "exclude", "compare", "launcher"),
)
DEFAULT_LAUNCHER = "local"
"""What `launcher` is where it does not say."""
LIST_AXES = ("rerankers", "transforms")
"""Keys that hold a list of components, applied in turn."""
EMPTY_LIST = "none"
"""How an empty list is called, in files and tables."""
DEMONSTRATION_AXES = ("retriever", "rerankers", "rerank_candidates", "order")
"""Axes that cannot matter without demonstrations: one arm at 0 shots serves all of their values."""
MAXIMA: Mapping[str, int] = {"shots": 10_000, "max_new_tokens": 100_000, "rerank_candidates": 100_000}
"""Axis -> the largest value: more than any model's context holds, or than a reranker should look at."""
ANSWER_MODES: tuple[AnswerMode, ...] = get_args(AnswerMode)
LAZY_BRANCHES: tuple[LazyBranches, ...] = get_args(LazyBranches)
"""Whether contrasts that a step can do without are read late (`decoding.engine.deferred_branches`)."""
CORRECTIONS = ("holm", "none")
METRIC_PREFERENCE = ("lenient", "strict", "option")
"""Which score is looked at where the run does not say: the first of these that it has."""
DEFAULT_METRICS = ("strict", "lenient")
"""The scores of a run that names none; where a run has them, they are told beside the one that is looked at."""
DEFAULT_METRIC, DEFAULT_CORRECTION = METRIC_PREFERENCE[0], CORRECTIONS[0]
"""What `compare` means where it does not say."""


def primary_metric(info: Mapping[str, Any], metrics: Sequence[str]) -> str | None:
    """The score that a run is looked at by: as its `compare` says, else the first of METRICS, else its first."""
    said = (info.get("config") or {}).get("compare") or {}
    first = metrics[0] if metrics else None
    return str(said["metric"]) if said.get("metric") else next((m for m in METRIC_PREFERENCE if m in metrics), first)
