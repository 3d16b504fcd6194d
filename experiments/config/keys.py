"""The words of an experiment file: its keys, which of them are axes, which hold components, and the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from decoding.engine.requests import LazyBranches, Score
from icl.models.base import MAX_NEW_TOKENS

KINDS: Mapping[str, str] = {
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
REFERENCES: Mapping[str, str] = {axis: DEFAULTS[axis] for axis in ("retriever", "decoding")}
"""Axis -> what its other values are held against where nobody says: chance, and the model's own most probable token."""
AXES: tuple[str, ...] = ("task", "model", *DEFAULTS)
KEYS: tuple[str, ...] = (
    *("name", *AXES, "seeds", "metrics", "controls", "top_logprobs", "lazy_branches"),
    *("grid", "zip", "exclude", "compare", "launcher"),
)
LAUNCHER = "local"
"""What `launcher` is where it does not say."""
LISTS = ("rerankers", "transforms")
"""Keys that hold a list of components, applied in turn."""
NONE = "none"
"""How an empty list is called, in files and tables."""
FREE_AT_ZERO = ("retriever", "rerankers", "rerank_candidates", "order")
"""Axes that cannot matter without demonstrations: one arm at 0 shots serves all of their values."""
MOST: Mapping[str, int] = {"shots": 10_000, "max_new_tokens": 100_000, "rerank_candidates": 100_000}
"""Axis -> the largest value: more than any model's context holds, or than a reranker should look at."""
SCORES: tuple[Score, ...] = get_args(Score)
LATE: tuple[LazyBranches, ...] = get_args(LazyBranches)
"""Whether contrasts that a step can do without are read late (`decoding.engine.deferred_branches`)."""
CORRECTIONS = ("holm", "none")
METRICS = ("lenient", "strict", "option")
"""Which score is looked at where the run does not say: the first of these that it has."""
SCORED = ("strict", "lenient")
"""The scores of a run that names none; where a run has them, they are told beside the one that is looked at."""
METRIC, CORRECTION = METRICS[0], CORRECTIONS[0]
"""What `compare` means where it does not say."""


def usual_metric(info: Mapping[str, Any], metrics: Sequence[str]) -> str | None:
    """The score that a run is looked at by: as its `compare` says, else the first of METRICS, else its first."""
    said = (info.get("config") or {}).get("compare") or {}
    first = metrics[0] if metrics else None
    return str(said["metric"]) if said.get("metric") else next((m for m in METRICS if m in metrics), first)
