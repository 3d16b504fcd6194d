"""Minimum description length (Wu et al., ACL 2023): the set under which the model is surest of the query's label.

    argmin over sets S of near demonstrations of   H(p(y | S, q))

The k nearest are always one of the sets; probabilities are of whole options, the mean over their tokens. The
opposite choice is `local_entropy`.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from retrievers.machinery.subset_scoring import SubsetRetriever


@component("retriever", "mdl")
@dataclass(frozen=True, kw_only=True)
class MDL(SubsetRetriever):
    """Of some sets of near demonstrations, the one that makes the model surest (MDL)."""

    name: ClassVar[str] = "mdl"
    sign: ClassVar[int] = -1
