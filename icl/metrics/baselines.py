"""Answers from the same demonstrations without a model: the null hypothesis of in-context learning.

With retrieved demonstrations, a model is often no better than the majority vote of their answers, and it copies the
last one (Baldassini et al., 2024). So every score is reported with these baselines. Answers are compared by
`normalize_text`. The prediction is the answer as the winning demonstration writes it. All are None without
demonstrations.
"""

from collections.abc import Callable, Mapping, Sequence

from icl import Demo, Query, normalize_text

Baseline = Callable[[Sequence[Demo], Query], str | None]


def vote(demos: Sequence[Demo], query: Query) -> str | None:
    """The most frequent answer. Ties go to the answer of the nearest demonstration (lowest rank)."""
    return _heaviest(demos, [1.0] * len(demos))


def weighted_vote(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer with the largest sum of max(score, 0). Ties go to the nearest demonstration; if all sums are zero,
    `vote`.
    """
    weights = [max(demo.score, 0.0) for demo in demos]
    return _heaviest(demos, weights) if any(weights) else vote(demos, query)


def last_copy(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer of the demonstration next to the query."""
    return demos[-1].example.answer if demos else None


def nearest_copy(demos: Sequence[Demo], query: Query) -> str | None:
    """The answer of the retriever's best demonstration (rank 0); with equal ranks the later one in the prompt."""
    return demos[_nearest(demos)].example.answer if demos else None


BASELINES: Mapping[str, Baseline] = {
    "vote": vote,
    "weighted_vote": weighted_vote,
    "last_copy": last_copy,
    "nearest_copy": nearest_copy,
}


def _nearest(demos: Sequence[Demo]) -> int:
    return min(range(len(demos)), key=lambda i: (demos[i].rank, -i))


def _heaviest(demos: Sequence[Demo], weights: Sequence[float]) -> str | None:
    if not demos:
        return None
    totals: dict[str, float] = {}
    for demo, weight in zip(demos, weights, strict=True):
        totals[normalize_text(demo.example.answer)] = totals.get(normalize_text(demo.example.answer), 0.0) + weight
    top = max(totals.values())
    tied = [demo for demo in demos if totals[normalize_text(demo.example.answer)] == top]
    return tied[_nearest(tied)].example.answer
