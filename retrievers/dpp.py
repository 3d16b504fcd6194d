"""A determinantal point process at inference (Ye et al., CEIL, ICML 2023; Chen et al., NeurIPS 2018, for the greedy).

    L_ij = r_i S_ij r_j,    S = (1 + cos) / 2,    r = exp(rel / (2 scale)),    rel = (1 + relevance) / 2 - its maximum

Greedy maximum of det(L_S) among the nearest `candidates`, in the order of picking; a score is the relevance. Where no
candidate is left that is independent of the chosen (a determinant ratio of 1e-12), the nearest fill up and are marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.constraints import Positive
from icl.registry import component
from icl.types import RetrievedExample
from retrievers.machinery.candidate_sets import CandidateSetRetriever
from retrievers.machinery.greedy_selection import dpp
from retrievers.machinery.similarity import Neighbors

MARK = "dpp: filled by relevance"


@component("retriever", "dpp")
@dataclass(frozen=True, kw_only=True)
class DPP(CandidateSetRetriever):
    """The set with the largest determinant of quality times diversity, greedily (CEIL without training)."""

    ranked: ClassVar[bool] = False

    scale: Positive = 0.1  # of the relevance against diversity: smaller trusts relevance more

    def choose(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        picked = dpp(near.scores, near.vectors, k, self.scale)
        rest = [place for place in range(len(near)) if place not in picked][: k - len(picked)]
        return [*near.given(picked), *near.given(rest, MARK)]
