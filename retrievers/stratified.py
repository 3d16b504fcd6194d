"""Random demonstrations in the proportions of the pool's labels, against `balanced`, which takes equally many of each.

Of k shots a label gets k n_label / N, rounded by the largest remainders (ties to the label that more members have, then
by name), with members drawn at random and shown in random order. A quota depends on k, so it is not nested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from icl.registry import component
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Resources
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.random_order import random_order


@component("retriever", "stratified")
@dataclass(frozen=True)
class Stratified:
    """Random demonstrations, each label in the pool's own proportion."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    nested: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> "FittedStratified":
        return FittedStratified(pool, resources.seed)


@dataclass(frozen=True)
class FittedStratified:
    """Draws from one pool by label. Every score is 0."""

    pool: Pool
    seed: int

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        return [self._one(query, k, policy) for query in queries]

    def _one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        by_label: dict[str, list[Example]] = {}
        for example in filter(policy.allowed_for(query), self.pool.examples):
            by_label.setdefault(example.class_name, []).append(example)
        sizes = {label: len(members) for label, members in by_label.items()}
        if sum(sizes.values()) < k:
            raise policy.too_few(self.pool, query, k)
        key = StreamKey(self.seed, query.id)
        drawn = [
            by_label[label][i]
            for label, quota in quotas(sizes, k).items()
            for i in islice(random_order(key.numpy(f"demos/label/{label}"), sizes[label]), quota)
        ]
        return tuple(RetrievedExample(drawn[i].id) for i in random_order(key.numpy("demos/order"), len(drawn)))


def quotas(sizes: dict[str, int], k: int) -> dict[str, int]:
    """k shared out in proportion to the sizes, by the largest remainders; in exact arithmetic."""
    total = sum(sizes.values())
    shares = {label: k * size // total for label, size in sorted(sizes.items())} if k else {}
    by_remainder = sorted(shares, key=lambda label: (-(k * sizes[label] % total), -sizes[label], label))
    for label in by_remainder[: k - sum(shares.values())]:
        shares[label] += 1
    return shares
