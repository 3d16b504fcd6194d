"""Late interaction (FILIP, Yao et al., ICLR 2022): every part of the query finds its best match in a member.

    score(q, x) = mean over the parts t of q of  max over the parts j of x of  cos(t, j)

Of images the parts are patches, of questions words; `both` is the weighted mean of the two. It is the query's side
that is averaged: the score of x for q is not that of q for x.
"""

from dataclasses import dataclass

import numpy as np

from icl.registry import component
from retrievers.machinery.greedy_selection import PartMatches
from retrievers.machinery.multi_vector import MultiVectorRetriever


@component("retriever", "late_interaction")
@dataclass(frozen=True)
class LateInteraction(MultiVectorRetriever):
    """Nearest by the mean of each patch's or word's best match (FILIP)."""

    def choose(self, matches: PartMatches, k: int) -> list[int]:
        scores = np.round(matches.alone(), 6)
        return [int(i) for i in np.argsort(-scores, kind="stable")[:k]]
