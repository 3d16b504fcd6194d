"""Highest entropy: the set under which the model is least sure of the query's label.

    argmax over sets S of near demonstrations of   H(p(y | S, q))

The same sets and probabilities as `mdl` (Wu et al., ACL 2023, whose code has both): its opposite, and so a control for
it. After LocalE (Lu et al., ACL 2022), which ranks orders by the mean entropy of predictions.
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from retrievers.machinery.subset_scoring import SubsetRetriever


@component("retriever", "local_entropy")
@dataclass(frozen=True, kw_only=True)
class LocalEntropy(SubsetRetriever):
    """Of some sets of near demonstrations, the one that leaves the model least sure."""

    name: ClassVar[str] = "local_entropy"
    sign: ClassVar[int] = 1
