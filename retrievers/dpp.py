"""A determinantal point process at inference (Ye et al., CEIL, ICML 2023; greedy: Chen et al., NeurIPS 2018).

    L_ij = r_i S_ij r_j,    S = (1 + cos) / 2,    r = exp(rel / (2 scale)),    rel = (1 + relevance) / 2 - its maximum

The greedy maximum of det(L_S) among the nearest `candidates`, in the order of selection. A score is the relevance. If
no candidate is independent of the selected ones (determinant ratio 1e-12), the nearest candidates follow with a mark.

Differs from the released code in the order (there by relevance), and for members that depend on the selected ones
(there the search divides by zero and goes on with NaN).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.registry import Positive, component
from icl.types import RetrievedExample
from retrievers.machinery.greedy_selection import dpp
from retrievers.machinery.similarity import CandidateSetRetriever, Neighbors

MARK = "dpp: filled by relevance"


@component("retriever", "dpp")
@dataclass(frozen=True, kw_only=True)
class DPP(CandidateSetRetriever):
    """The greedy set with the largest determinant of relevance and diversity (CEIL without training)."""

    ranked: ClassVar[bool] = False

    scale: Positive = 0.1  # of the relevance; a smaller scale gives relevance more weight against diversity

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        selected = dpp(neighbors.scores, neighbors.vectors, k, self.scale)
        rest = [position for position in range(len(neighbors)) if position not in selected][: k - len(selected)]
        return [*neighbors.retrieved(selected), *neighbors.retrieved(rest, MARK)]
