"""Highest entropy: the set with the highest entropy of the query's label.

    argmax over sets S of near demonstrations of   H(p(y | S, q))

Sets and probabilities are the same as in `mdl` (Wu et al., ACL 2023; their code has both), so it is a control for
`mdl`. The name follows LocalE (Lu et al., ACL 2022), which ranks orders by the mean entropy of predictions.

Differs from the released code in the order within a set, which orderers decide (see `mdl`).
"""

from dataclasses import dataclass
from typing import ClassVar

from icl.registry import component
from retrievers.machinery.greedy_selection import SubsetRetriever


@component("retriever", "local_entropy")
@dataclass(frozen=True, kw_only=True)
class LocalEntropy(SubsetRetriever):
    """Among sets of near demonstrations, the one with the highest entropy of the model's label."""

    name: ClassVar[str] = "local_entropy"
    sign: ClassVar[int] = 1
