"""Random demonstrations in the label proportions of the pool; `balanced` takes equally many of each label.

A label gets k n_label / N of k shots, rounded by the largest remainders. Ties go to the label with more members, then
by name. The retriever goes through a random order of the pool and takes each member whose label has shots left. The
quotas depend on k, so the sets are not nested.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Pool, Query, RetrievedExample, StreamKey, component
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


@component("retriever", "stratified")
@dataclass(frozen=True)
class Stratified:
    """Random demonstrations in the label proportions of the pool."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    nested: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> "FittedStratified":
        return FittedStratified(pool, resources.seed)


@dataclass(frozen=True)
class FittedStratified:
    """Random members of one pool by label. All scores are 0."""

    pool: Pool
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._retrieve_one(query, k, policy) for query in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed = policy.allowed_for(query)
        sizes = Counter(example.class_name for example in filter(is_allowed, self.pool.examples))
        if sum(sizes.values()) < k:
            raise policy.too_few(self.pool, query, k)
        key = StreamKey(self.seed, query.id)
        left = quotas(sizes, k)
        demos = list[RetrievedExample]()
        for example in filter(is_allowed, self.pool.in_random_order(key, "demos")):
            if len(demos) == k:
                break
            if left[example.class_name]:
                left[example.class_name] -= 1
                demos.append(RetrievedExample(example.id))
        return tuple(demos)


def quotas(sizes: dict[str, int], k: int) -> dict[str, int]:
    """Quotas with sum k in proportion to the sizes, by the largest remainders, in exact arithmetic."""
    total = sum(sizes.values())
    shares = {label: k * size // total for label, size in sorted(sizes.items())} if k else {}
    by_remainder = sorted(shares, key=lambda label: (-(k * sizes[label] % total), -sizes[label], label))
    for label in by_remainder[: k - sum(shares.values())]:
        shares[label] += 1
    return shares
