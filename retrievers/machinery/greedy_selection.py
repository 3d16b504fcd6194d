"""Greedy choices of a diverse set from scored candidates, as pure functions on arrays.

All give places among the candidates in the order of picking. Candidates come best first, and gains within `TIE` of the
best count as equal: the earlier candidate is taken, so that the last bit of a sum decides nothing. Each step reads the
candidates once (one matrix-vector product): [C, D] for k picks costs k C D, never C^2.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Floats = NDArray[np.float64]

TIE = 1e-6
"""Gains this near to the best are equal to it: above the noise of float32 sums of unit vectors."""

SINGULAR = 1e-12
"""A determinant that would shrink below this share of itself adds nothing."""


def first_best(gains: Array) -> int:
    """The first place whose gain is the largest, within `TIE`."""
    return int(np.argmax(gains >= gains.max() - TIE))


def mmr(relevance: Array, vectors: Array, k: int, balance: float) -> list[int]:
    """argmax balance * relevance - (1 - balance) * max over the chosen of the cosine (0 where none is chosen).

    relevance: [C]; vectors: [C, D] unit rows.
    """
    merit = balance * relevance.astype(np.float64)
    nearest = np.zeros(len(merit))
    picked: list[int] = []
    for step in range(min(k, len(merit))):
        gains = merit - (1 - balance) * nearest
        gains[picked] = -np.inf
        picked.append(first_best(gains))
        similar = vectors @ vectors[picked[-1]]
        nearest = similar if step == 0 else np.maximum(nearest, similar)
    return picked


def dpp(relevance: Array, vectors: Array, k: int, scale: float = 0.1) -> list[int]:
    """Greedy maximum of det(L_S), L_ij = r_i S_ij r_j, S = (1 + cos) / 2, r = exp(rel / (2 scale)) (CEIL).

    rel = (1 + relevance) / 2, less its largest. Ends early where no candidate keeps `SINGULAR` of the determinant.
    """
    exact = vectors.astype(np.float64)
    standing = (1 + relevance.astype(np.float64)) / 2
    weight = np.exp((standing - standing.max()) / (2 * scale)) if len(standing) else standing
    left = weight**2 * (1 + (exact**2).sum(axis=1)) / 2
    basis = np.zeros((min(k, len(left)), len(left)))
    picked: list[int] = []
    for step in range(len(basis)):
        left[picked] = -np.inf
        best = int(np.argmax(left >= left.max() * (1 - TIE)))
        if left[best] <= SINGULAR:
            break
        row = weight[best] * weight * (1 + exact @ exact[best]) / 2
        basis[step] = (row - basis[:step].T @ basis[:step, best]) / np.sqrt(left[best])
        left = left - basis[step] ** 2
        picked.append(best)
    return picked


def select_dissimilar(vectors: Array, k: int, limit: float, count: int = 0) -> list[int]:
    """The first k, in order, whose cosine with every one chosen before is not above the limit.

    count: how many of the first candidates are chosen already.
    """
    picked = list(range(count))
    open_ = np.ones(len(vectors), bool)
    for place in picked:
        open_ &= vectors @ vectors[place] <= limit
    open_[:count] = False
    while len(picked) < k and open_.any():
        picked.append(int(np.argmax(open_)))
        open_ &= vectors @ vectors[picked[-1]] <= limit
        open_[picked[-1]] = False
    return picked


def most_diverse_subset(vectors: Array, k: int) -> list[int]:
    """The k rows with the smallest sum of pairwise cosines, in their order; the first such set of equals."""
    similar = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    sets = _sets(len(vectors), min(k, len(vectors)))
    sums = ((sets @ similar) * sets).sum(axis=1) - sets @ np.diag(similar)
    return np.flatnonzero(sets[first_best(-sums / 2)]).tolist()


@lru_cache(maxsize=16)
def _sets(size: int, k: int) -> Floats:
    """[M, size] of 0 and 1: every subset of k, in lexicographic order."""
    chosen = np.array(list(combinations(range(size), k)), dtype=np.int64).reshape(-1, k)
    sets = np.zeros((len(chosen), size))
    np.put_along_axis(sets, chosen, 1, axis=1)
    return sets


@dataclass(frozen=True)
class PartMatches:
    """matches: [T, C], how well candidate c covers part t of the query. weights: [T], their sum is 1."""

    matches: Array
    weights: Array

    def alone(self) -> Floats:
        """[C]: what each candidate covers by itself."""
        return np.asarray(self.weights @ self.matches, dtype=np.float64)

    def pick(self, k: int) -> list[int]:
        """argmax sum_t w_t max over the chosen of match(t, c), started anew when nothing more is gained (Set-BSR)."""
        have = np.full((len(self.weights), 1), -1.0, dtype=self.matches.dtype)
        covered, picked = have, list[int]()
        while len(picked) < min(k, self.matches.shape[1]):
            gains = self.weights @ np.maximum(self.matches - covered, 0)
            gains[picked] = -np.inf
            best = first_best(gains)
            if gains[best] <= TIE and covered is not have:
                covered = have
                continue
            picked.append(best)
            covered = np.maximum(covered, self.matches[:, best : best + 1])
        return picked
