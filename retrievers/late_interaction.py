"""Late interaction (FILIP, Yao et al., ICLR 2022): the mean best match of the parts of the query in a member.

    score(q, x) = mean over the parts t of q of  max over the parts j of x of  cos(t, j)

The parts of images are patches, the parts of questions are words; `both` is the weighted mean of the two. The mean is
over the parts of the query, so the score of x for q differs from the score of q for x.

No released code.
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

    def select(self, matches: PartMatches, k: int) -> list[int]:
        scores = np.round(matches.scores(), 6)
        return [int(i) for i in np.argsort(-scores, kind="stable")[:k]]
