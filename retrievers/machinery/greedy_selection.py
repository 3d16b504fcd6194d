"""Greedy selection of a diverse set from scored candidates, as pure functions on arrays.

All functions return positions of candidates in the order of selection. Candidates are in order, best first. Gains
within `TIE` of the best are equal, and the earlier candidate is selected, so rounding errors decide nothing. Each step
is one matrix-vector product: selecting k of [C, D] costs k C D, not C^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import LogitModel, Pool, PositiveInt, Query, RetrievedExample, StreamKey
from icl.models.answer_likelihood import demo_prompt, entropy, options_of, probabilities, scorer
from retrievers import FittedRetriever, FittedSimilarity, ModalityRetriever, Neighbors, Resources, fit_similarity

Array = NDArray[np.floating]

Floats = NDArray[np.float64]

TIE = 1e-6
"""Gains within this distance of the best are equal to it. It is above the error of float32 sums of unit vectors."""

SINGULAR = 1e-12
"""A candidate that shrinks the determinant below this share adds nothing."""


def first_best(gains: Array) -> int:
    """The first position with the largest gain, within `TIE`."""
    return int(np.argmax(gains >= gains.max() - TIE))


def mmr(relevance: Array, vectors: Array, k: int, balance: float) -> list[int]:
    """Maximal marginal relevance: argmax balance * relevance - (1 - balance) * max over selected of the cosine.

    The maximum over an empty set is 0. relevance: [C]; vectors: [C, D], unit rows.
    """
    merit = balance * relevance.astype(np.float64)
    nearest = np.zeros(len(merit))
    selected: list[int] = []
    for step in range(min(k, len(merit))):
        gains = merit - (1 - balance) * nearest
        gains[selected] = -np.inf
        selected.append(first_best(gains))
        similar = vectors @ vectors[selected[-1]]
        nearest = similar if step == 0 else np.maximum(nearest, similar)
    return selected


def dpp(relevance: Array, vectors: Array, k: int, scale: float = 0.1) -> list[int]:
    """The greedy maximum of det(L_S), L_ij = r_i S_ij r_j, S = (1 + cos) / 2, r = exp(rel / (2 scale)) (CEIL).

    rel = (1 + relevance) / 2 minus its maximum. Ends early if no candidate keeps `SINGULAR` of the determinant.
    """
    exact = vectors.astype(np.float64)
    scaled = (1 + relevance.astype(np.float64)) / 2
    weight = np.exp((scaled - scaled.max()) / (2 * scale)) if len(scaled) else scaled
    gains = weight**2 * (1 + (exact**2).sum(axis=1)) / 2
    basis = np.zeros((min(k, len(gains)), len(gains)))
    selected: list[int] = []
    for step in range(len(basis)):
        gains[selected] = -np.inf
        best = int(np.argmax(gains >= gains.max() * (1 - TIE)))
        if gains[best] <= SINGULAR:
            break
        row = weight[best] * weight * (1 + exact @ exact[best]) / 2
        basis[step] = (row - basis[:step].T @ basis[:step, best]) / np.sqrt(gains[best])
        gains = gains - basis[step] ** 2
        selected.append(best)
    return selected


def select_dissimilar(vectors: Array, k: int, limit: float) -> list[int]:
    """Select the first k candidates whose cosine with all selected ones is at most the limit."""
    selected: list[int] = []
    remaining = np.ones(len(vectors), bool)
    while len(selected) < k and remaining.any():
        selected.append(int(np.argmax(remaining)))
        remaining &= vectors @ vectors[selected[-1]] <= limit
        remaining[selected[-1]] = False
    return selected


def most_diverse_subset(vectors: Array, k: int) -> list[int]:
    """The k rows with the smallest sum of pairwise cosines, in order. Of equal sets, the first."""
    similar = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    sets = _subsets(len(vectors), min(k, len(vectors)))
    sums = ((sets @ similar) * sets).sum(axis=1) - sets @ np.diag(similar)
    return np.flatnonzero(sets[first_best(-sums / 2)]).tolist()


@lru_cache(maxsize=16)
def _subsets(size: int, k: int) -> Floats:
    """All subsets of k as rows of 0 and 1, [M, size], in lexicographic order."""
    members = np.array(list(combinations(range(size), k)), dtype=np.int64).reshape(-1, k)
    sets = np.zeros((len(members), size))
    np.put_along_axis(sets, members, 1, axis=1)
    return sets


@dataclass(frozen=True)
class PartMatches:
    """The scores of how well candidates cover the parts of a query.

    matches: [T, C], the match of part t with candidate c. weights: [T], with sum 1.
    """

    matches: Array
    weights: Array

    def scores(self) -> Floats:
        """What each candidate covers by itself, [C]."""
        return np.asarray(self.weights @ self.matches, dtype=np.float64)

    def greedy_cover(self, k: int) -> list[int]:
        """Maximize sum_t w_t max over selected of match(t, c); restart when no candidate adds coverage (Set-BSR)."""
        empty = np.full((len(self.weights), 1), -1.0, dtype=self.matches.dtype)
        covered, selected = empty, list[int]()
        while len(selected) < min(k, self.matches.shape[1]):
            gains = self.weights @ np.maximum(self.matches - covered, 0)
            gains[selected] = -np.inf
            best = first_best(gains)
            if gains[best] <= TIE and covered is not empty:
                covered = empty
                continue
            selected.append(best)
            covered = np.maximum(covered, self.matches[:, best : best + 1])
        return selected


# Base of `mdl` and `local_entropy`: the model scores sets of near demonstrations, and the best set is returned.
#
# One set is the k nearest members. The other sets are random subsets of the `candidates` nearest: in set j, the k
# members with the smallest numbers from (seed, query id, j, member id). For each set, with the nearest demonstration
# next to the query, the model gives probabilities of the options. The best set is returned in the order of
# similarity. A set depends on k, so the sets are not nested.


INSTEAD = "the retriever 'dpp'"


@dataclass(frozen=True, kw_only=True)
class SubsetRetriever(ModalityRetriever):
    """Base of retrievers that select the set with the best entropy of the model's answer."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    nested: ClassVar[bool] = False
    name: ClassVar[str] = ""
    sign: ClassVar[int] = 1  # 1: prefers high entropy, -1: low entropy

    candidates: PositiveInt = 30  # how many of the nearest members the sets are drawn from
    subsets: PositiveInt = 10  # number of sets that are compared, the k nearest included

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model that gives logits."""
        fitted = fit_similarity(self, pool, resources)
        model = scorer(resources.model, f"retriever '{self.name}'", INSTEAD)
        return FittedSubsetRetriever(self, pool, fitted.source, fitted.index, model, resources.seed)

    def num_candidates(self, k: int) -> int:
        return max(k, self.candidates)


@dataclass(frozen=True)
class FittedSubsetRetriever(FittedSimilarity):
    """An index over one pool, and the model that scores the sets."""

    model: LogitModel
    seed: int

    def select_demos(self, neighbors: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(neighbors) < k:
            raise self.retriever.too_few(self.pool, neighbors.query, k, neighbors.policy)
        sets = self.sets(neighbors.query, [neighbors.example(i).id for i in range(len(neighbors))], k)
        return tuple(neighbors.retrieved(sets[first_best(self.merits(neighbors, sets))]))

    def sets(self, query: Query, ids: Sequence[str], k: int) -> list[tuple[int, ...]]:
        """Distinct sets of k positions among the ids of the nearest members; the first set is the k nearest."""
        retriever = self.retriever
        assert isinstance(retriever, SubsetRetriever)
        key = StreamKey(self.seed, query.id)
        random_sets = [tuple(sorted(key.order(f"subsets/{j}", ids)[:k])) for j in range(1, retriever.subsets)]
        return list(dict.fromkeys([tuple(range(k)), *random_sets]))

    def merits(self, neighbors: Neighbors, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """The signed entropy of the options under each set. The larger, the better."""
        retriever, key = self.retriever, StreamKey(self.seed, neighbors.query.id)
        assert isinstance(retriever, SubsetRetriever)
        options = options_of(neighbors.query, self.pool, f"retriever '{retriever.name}'", INSTEAD)
        prompts = [
            demo_prompt(neighbors.query, [neighbors.example(position) for position in positions[::-1]], key)
            for positions in sets
        ]
        return retriever.sign * entropy(probabilities(self.model, prompts, options))
