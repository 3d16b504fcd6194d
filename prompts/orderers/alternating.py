"""Alternating labels: the demonstrations' labels take turns while several are left (VL-ICL, Zong et al. 2025).

In each round, each label gives its best remaining demonstration. Labels take turns in the order of their first
appearance in the ranking, and a label without demonstrations left is skipped. VL-ICL draws the order of labels for each
query (`start: random`). With the paper's ranking retriever, the best-ranked label begins. The last demonstration is
next to the query.

Differs from the released code in the default order of labels (`start: random` is as released).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl.registry import component
from icl.types import Context, Demo


@component("orderer", "alternating")
@dataclass(frozen=True)
class Alternating:
    """An orderer in which labels take turns, each with its best-ranked demonstrations first."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    start: Literal["first", "random"] = "first"  # first label: the best-ranked one, or a random one for each query

    def order(self, context: Context) -> Context:
        piles: dict[str, list[Demo]] = {}
        for demo in sorted(context.demos, key=lambda demo: demo.rank):
            piles.setdefault(demo.example.class_name, []).append(demo)
        turns = list(piles.values())
        if self.start == "random":
            turns = [turns[i] for i in context.key.order("order/labels", list(piles))]
        rounds = range(max(map(len, turns), default=0))
        return replace(context, demos=tuple(pile[i] for i in rounds for pile in turns if i < len(pile)))
