"""vote-k (Su et al., ICLR 2023): a diverse and representative part of the pool, selected once for all queries.

Every member votes for its `neighbors` nearest members. The next selected member is

    argmax over u not selected of   sum over v not selected, u near v, of   rho ^ -(number of selected members near v)

so a region that already has a member counts less. Ties go to the member with more undiscounted votes, then to the order
of the pool. Fitting selects `size` members, and a query gets its nearest among them. This is the half of the method
that needs no model; the confidence-based half is not implemented.

Differs from the released code in the neighbors of a member, which are found by id (there the last of a sorted list
counts as the member itself, so that a duplicate loses a vote), and in ties (there by the sort).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from icl import PlanError, Pool, PositiveInt, Query, component
from retrievers import FittedSimilarity, ModalityRetriever, VectorIndex, fit_similarity
from retrievers.base import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


@component("retriever", "vote_k")
@dataclass(frozen=True, kw_only=True)
class VoteK(ModalityRetriever):
    """Nearest members of a representative part of the pool, which discounted votes select."""

    size: PositiveInt = 100  # number of members selected; all if the pool has fewer
    neighbors: PositiveInt = 150  # number of members that each member votes for
    rho: Annotated[float, Ge(1)] = 10.0  # divides a vote for every selected member near the voter

    def fit(self, pool: Pool, resources: Resources) -> "FittedVoteK":
        fitted = fit_similarity(self, pool, resources)
        size = min(self.size, len(pool))
        rows = range(len(pool)) if size == len(pool) else self.select_rows(fitted.index, size)
        part = Pool(tuple(pool.examples[row] for row in sorted(rows)))
        return FittedVoteK(self, pool, fit_similarity(self, part, resources))

    def select_rows(self, index: VectorIndex, size: int) -> list[int]:
        """Rows of the pool in the order of selection."""
        others: list[Any] = [lambda row, own=own: row != own for own in range(len(index))]
        hits = index.nearest(index.vectors, self.neighbors, others)
        return most_voted(np.array([[row for row, _ in of_member] for of_member in hits]), size, self.rho)


def most_voted(nearest: NDArray[np.int64], size: int, rho: float) -> list[int]:
    """Select rows by discounted votes.

    Args:
        nearest: [N, n], the rows that each row votes for.

    Returns:
        `size` rows in the order of selection.
    """
    count = len(nearest)
    votes = np.bincount(nearest.ravel(), minlength=count)
    selected_nearby = np.zeros(count)  # selected members near each voter
    remaining = np.ones(count, bool)
    selected: list[int] = []
    while len(selected) < size:
        weight = np.where(remaining, rho**-selected_nearby, 0.0)
        scores = np.bincount(nearest.ravel(), np.repeat(weight, nearest.shape[1]), count)
        tied = remaining & (scores >= scores[remaining].max() - 1e-9)
        best = int(max(np.flatnonzero(tied), key=votes.__getitem__))
        selected.append(best)
        remaining[best] = False
        selected_nearby += (nearest == best).any(axis=1)
    return selected


@dataclass(frozen=True)
class FittedVoteK:
    """An index over the selected part of the pool."""

    retriever: VoteK
    pool: Pool
    part: FittedSimilarity

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if k > len(self.part.pool) < len(self.pool):
            raise PlanError(
                f"'vote_k' chose {len(self.part.pool)} of the pool's {len(self.pool)} members, but {k} shots are "
                "requested. Increase size."
            )
        return self.part.retrieve(queries, k, policy)
