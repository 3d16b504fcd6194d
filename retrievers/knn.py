"""Nearest neighbors: RICES (Yang et al. 2022; Alayrac et al. 2022) by image, by question, or by both.

    score(q, x) = cos(q, x)                                               image or question
    score(q, x) = w cos(image_q, image_x) + (1 - w) cos(question_q, question_x)        both

`both` is the weighted mean of the two cosines: the dot product of concatenated unit vectors, each scaled by the root
of its weight. A concatenation of raw vectors would let the one with the larger norm decide. Equal scores are in the
order of the pool.

Differs from the released code in the members that may be retrieved: OpenFlamingo's RICES has no check for the query's
own image. The orderer decides the order (by default the nearest last).
"""

from dataclasses import dataclass

from icl.registry import component
from retrievers.machinery.similarity import ModalityRetriever


@component("retriever", "knn", "rices", "kate", "nearest_neighbors")
@dataclass(frozen=True)
class KNN(ModalityRetriever):
    """The nearest neighbors of the query by image, question or both (RICES)."""
