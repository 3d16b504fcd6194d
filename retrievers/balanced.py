"""Label-balanced random demonstrations: each label appears equally often, up to one demonstration.

Each query has its own random order of labels. The retriever goes round this order and takes a random member of each
label. Every prefix is balanced, so the sets are nested. A label without members left is skipped. The label of an
example is its `label`, or its first answer if it has no label.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from icl.errors import PlanError
from icl.registry import component
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos
from retrievers.machinery.random_order import random_order


@component("retriever", "balanced")
@dataclass(frozen=True)
class Balanced:
    """Random demonstrations with equally many of each label, nested across shots."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    nested: ClassVar[bool] = True

    def fit(self, pool: Pool, resources: Resources) -> "FittedBalanced":
        """Raises PlanError if the pool has a single label."""
        by_label: dict[str, list[Example]] = {}
        for example in pool.examples:
            by_label.setdefault(example.class_name, []).append(example)
        if len(by_label) < 2:
            raise PlanError(
                f"retriever 'balanced' needs a pool with two labels or more, and all {len(pool)} examples have "
                f"{next(iter(by_label), 'none')!r}. Use 'random', or add labels to the examples."
            )
        return FittedBalanced(pool, by_label, resources.seed)


@dataclass(frozen=True)
class FittedBalanced:
    """Random members of one pool by label. All scores are 0."""

    pool: Pool
    by_label: Mapping[str, Sequence[Example]]
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._retrieve_one(query, k, policy) for query in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed, key = policy.allowed_for(query), StreamKey(self.seed, query.id)
        labels = sorted(self.by_label)
        turns = [self._of_label(labels[i], key) for i in random_order(key.numpy("demos/labels"), len(labels))]
        demos = tuple(RetrievedExample(example.id) for example in islice(_round_robin(turns, is_allowed), k))
        if len(demos) < k:
            raise policy.too_few(self.pool, query, k)
        return demos

    def _of_label(self, label: str, key: StreamKey) -> Iterator[Example]:
        members = self.by_label[label]
        return (members[i] for i in random_order(key.numpy(f"demos/label/{label}"), len(members)))


def _round_robin(turns: list[Iterator[Example]], is_allowed: Callable[[Example], bool]) -> Iterator[Example]:
    while turns:
        nonempty = []
        for members in turns:
            example = next(filter(is_allowed, members), None)
            if example is not None:
                nonempty.append(members)
                yield example
        turns = nonempty
