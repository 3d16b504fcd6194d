"""Greedy selection of a diverse set from scored candidates, as pure functions on arrays.

All functions return positions of candidates in the order of selection. Candidates are in order, best first. Gains
within `TIE` of the best are equal, and the earlier candidate is selected, so rounding errors decide nothing. Each step
is one matrix-vector product: selecting k of [C, D] costs k C D, not C^2.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

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
