"""Label-balanced random demonstrations: each label appears equally often, up to one demonstration.

Each query has its own random order of labels, and of members in each label; both are keyed by name and id. The
retriever goes round the labels and takes the next member of each. Every prefix is balanced, so the sets are nested. A
label without members left is skipped. The label of an example is its `label`, or its first answer if it has no label.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from icl import Example, PlanError, Pool, Query, RetrievedExample, StreamKey, component
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


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
        pools = {label: Pool(tuple(members)) for label, members in by_label.items()}
        return FittedBalanced(pool, pools, resources.seed)


@dataclass(frozen=True)
class FittedBalanced:
    """Random members of one pool by label. All scores are 0."""

    pool: Pool
    by_label: Mapping[str, Pool]
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._retrieve_one(query, k, policy) for query in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed, key = policy.allowed_for(query), StreamKey(self.seed, query.id)
        labels = sorted(self.by_label)
        turns = [
            self.by_label[labels[i]].in_random_order(key, f"demos/label/{labels[i]}")
            for i in key.order("demos/labels", labels)
        ]
        demos = tuple(RetrievedExample(example.id) for example in islice(_round_robin(turns, is_allowed), k))
        if len(demos) < k:
            raise policy.too_few(self.pool, query, k)
        return demos


def _round_robin(turns: list[Iterator[Example]], is_allowed: Callable[[Example], bool]) -> Iterator[Example]:
    while turns:
        nonempty = []
        for members in turns:
            example = next(filter(is_allowed, members), None)
            if example is not None:
                nonempty.append(members)
                yield example
        turns = nonempty
