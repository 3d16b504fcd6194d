"""vote-k (Su et al., ICLR 2023): a diverse and representative part of the pool, chosen once for all queries.

Every member votes for its `neighbors` nearest. The next chosen is

    argmax over u not chosen of   sum over v not chosen, u near v, of   rho ^ -(number of chosen members near v)

so a region that has a member already counts less. Ties: more undiscounted votes, then the order of the pool. `size`
members are chosen when the pool is fitted; a query gets its nearest among them. This is the published discount, of the
paper's two halves the one that needs no model; its confidence-based half is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from icl.constraints import PositiveInt
from icl.errors import PlanError
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Resources
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.similarity import FittedSimilarity, ModalityRetriever, fit_similarity
from retrievers.machinery.vector_index import VectorIndex


@component("retriever", "vote_k")
@dataclass(frozen=True, kw_only=True)
class VoteK(ModalityRetriever):
    """Nearest among a representative part of the pool that is chosen by discounted votes."""

    size: PositiveInt = 100  # members chosen; all where the pool has no more
    neighbors: PositiveInt = 150  # members that each votes for
    rho: Annotated[float, Ge(1)] = 10.0  # a vote is divided by it for every chosen member near the voter

    def fit(self, pool: Pool, resources: Resources) -> "FittedVoteK":
        whole = fit_similarity(self, pool, resources)
        size = min(self.size, len(pool))
        rows = range(len(pool)) if size == len(pool) else self.chosen(whole.index, size)
        part = Pool(tuple(pool.examples[row] for row in sorted(rows)))
        return FittedVoteK(self, pool, fit_similarity(self, part, resources))

    def chosen(self, index: VectorIndex, size: int) -> list[int]:
        """Rows in the order of choosing."""
        others: list[Any] = [lambda row, own=own: row != own for own in range(len(index))]
        near = index.nearest(index.vectors, min(self.neighbors, len(index) - 1), others)
        return most_voted(np.array([[row for row, _ in rows] for rows in near]), size, self.rho)


def most_voted(near: NDArray[np.int64], size: int, rho: float) -> list[int]:
    """near: [N, n], whom each row votes for -> `size` rows in the order of choosing."""
    count = len(near)
    votes = np.bincount(near.ravel(), minlength=count)
    met = np.zeros(count)  # chosen members near each voter
    standing = np.ones(count, bool)
    chosen: list[int] = []
    while len(chosen) < size:
        weight = np.where(standing, rho**-met, 0.0)
        scores = np.bincount(near.ravel(), np.repeat(weight, near.shape[1]), count)
        tied = standing & (scores >= scores[standing].max() - 1e-9)
        best = int(np.argmax(np.where(tied, votes, -1)))
        chosen.append(best)
        standing[best] = False
        met += (near == best).any(axis=1)
    return chosen


@dataclass(frozen=True)
class FittedVoteK:
    """An index over the chosen part."""

    retriever: VoteK
    pool: Pool
    part: FittedSimilarity

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        if k > len(self.part.pool) < len(self.pool):
            raise PlanError(
                f"'vote_k' chose {len(self.part.pool)} of the pool's {len(self.pool)} members and {k} shots are "
                f"wanted. Raise size."
            )
        return self.part.retrieve(queries, k, policy)
