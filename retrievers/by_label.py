"""Retrievers that read the labels of members: balanced, stratified, hard negatives and pairs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from icl import Example, PlanError, Pool, Query, RetrievedExample, StreamKey, component
from retrievers import FittedSimilarity, ModalityRetriever, Neighbors, fit_similarity
from retrievers.base import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


def check_two_labels(pool: Pool, name: str, instead: str) -> None:
    """Raises PlanError if all members have one label."""
    labels = {example.class_name for example in pool.examples}
    if len(labels) < 2:
        raise PlanError(
            f"retriever '{name}' needs a pool with two labels or more, and all {len(pool)} examples have "
            f"{next(iter(labels), 'none')!r}. Use '{instead}', or add labels to the examples."
        )


@component("retriever", "balanced")
@dataclass(frozen=True)
class Balanced:
    """Random demonstrations with equally many of each label, nested across shots.

    Label-balanced random demonstrations: each label appears equally often, up to one demonstration.

    Each query has its own random order of labels, and of members in each label; both are keyed by name and id. The
    retriever goes round the labels and takes the next member of each. Every prefix is balanced, so the sets are nested.
    A label without members left is skipped. The label of an example is its `label`, or its first answer if it has no
    label.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    nested: ClassVar[bool] = True
    reads_pool_only: ClassVar[bool] = True

    def fit(self, pool: Pool, resources: Resources) -> "FittedBalanced":
        """Raises PlanError if the pool has a single label."""
        check_two_labels(pool, "balanced", "random")
        by_label: dict[str, list[Example]] = {}
        for example in pool.examples:
            by_label.setdefault(example.class_name, []).append(example)
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


@component("retriever", "stratified")
@dataclass(frozen=True)
class Stratified:
    """Random demonstrations in the label proportions of the pool.

    Random demonstrations in the label proportions of the pool; `balanced` takes equally many of each label.

    A label gets k n_label / N of k shots, rounded by the largest remainders. Ties go to the label with more members,
    then by name. The retriever goes through a random order of the pool and takes each member whose label has shots
    left. The quotas depend on k, so the sets are not nested.
    """

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


MARK = "hard_negative: no other label left"


@component("retriever", "hard_negative")
@dataclass(frozen=True)
class HardNegative(ModalityRetriever):
    """The nearest neighbor, then the nearest members with another label than this neighbor.

    Hard negatives: the nearest neighbor, then the nearest members with another label than this neighbor.

    The nearest neighbor's label stands in for the query's, so no gold answer is read. If no member with another
    label is left, the nearest members with the same label follow with a mark.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError if the pool has a single label."""
        check_two_labels(pool, "hard_negative", "knn")
        return fit_similarity(self, pool, resources)

    def num_candidates(self, k: int) -> int:
        return 4 * k + 16

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        label = neighbors.example(0).class_name
        others = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name != label]
        if len(others) < k - 1 and len(neighbors) >= self.num_candidates(k):  # the candidates have one label
            neighbors = neighbors.search_whole_pool()
            others = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name != label]
        same = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name == label]
        selected = [0, *others[: k - 1]]
        return [*neighbors.retrieved(selected), *neighbors.retrieved(same[: k - len(selected)], MARK)]


@component("retriever", "contrastive_pair")
@dataclass(frozen=True)
class ContrastivePair(ModalityRetriever):
    """Near demonstrations, each followed by its nearest neighbor with another label.

    Contrastive pairs: each demonstration is followed by its nearest neighbor with another label.

        d1, p1, d2, p2, ...    d: nearest to the query, not yet used    p: nearest to d with another label, not yet used

    A partner is near to its demonstration, not to the query, so a pair differs in little but the label (the contrastive
    demonstrations of Bitton et al. 2024 for compositional tasks, without a caption generator). No gold answer is read.
    A score is the similarity to the query. An odd number of shots ends with a demonstration without a partner.

    No released code.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError if the pool has a single label."""
        check_two_labels(pool, "contrastive_pair", "knn")
        return fit_similarity(self, pool, resources)

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        fitted = neighbors.fitted
        (query_vector,) = fitted.embed_queries([neighbors.query]).astype(np.float64)
        rows = list(islice(self._pairs(neighbors), k))
        scores = (fitted.index.vectors[rows] * query_vector).sum(axis=1)
        return [
            RetrievedExample(fitted.pool.examples[row].id, round(float(score), 6))
            for row, score in zip(rows, scores, strict=True)
        ]

    def _pairs(self, neighbors: Neighbors) -> Iterator[int]:
        used: set[int] = set()
        for row in neighbors.rows.tolist():
            if row not in used:
                used.add(row)
                yield row
                partner = self._partner(neighbors, row, used)
                if partner is not None:
                    used.add(partner)
                    yield partner

    def _partner(self, neighbors: Neighbors, row: int, used: set[int]) -> int | None:
        fitted = neighbors.fitted
        examples, is_allowed = fitted.pool.examples, fitted.filter_for(neighbors.query, neighbors.policy)
        label = examples[row].class_name

        def can_be_partner(other: int) -> bool:
            return other not in used and examples[other].class_name != label and is_allowed(other)

        (hits,) = fitted.index.nearest(fitted.index.vectors[row : row + 1], 1, [can_be_partner])
        return hits[0][0] if hits else None
