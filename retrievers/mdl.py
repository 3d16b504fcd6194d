"""Minimum description length (Wu et al., ACL 2023): the set with the lowest entropy of the query's label.

    argmin over sets S of near demonstrations of   H(p(y | S, q))

The k nearest members are always one of the sets. Probabilities are of whole options: the mean over their tokens.
`local_entropy` is the opposite choice.

Differs from the released code in the order within a set, which orderers decide, and in the names of its three sizes,
which its configuration exchanges.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from retrievers.machinery.greedy_selection import SubsetRetriever


@component("retriever", "mdl")
@dataclass(frozen=True, kw_only=True)
class MDL(SubsetRetriever):
    """Among sets of near demonstrations, the one with the lowest entropy of the model's label (MDL)."""

    name: ClassVar[str] = "mdl"
    sign: ClassVar[int] = -1
