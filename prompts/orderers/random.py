"""A random order for each query: the effect of order by chance.

Each demonstration draws a number from (seed, query id, "order", its id), and the numbers are sorted. So two
demonstrations keep their relative order in other sets of the same query.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context


@component("orderer", "random")
@dataclass(frozen=True)
class RandomOrderer:
    """An orderer with a random order. A query has the same one in every arm with the same demonstrations."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        ranked = sorted(context.demos, key=lambda demo: demo.rank)
        places = context.key.order("order", [demo.example.id for demo in ranked])
        return replace(context, demos=tuple(ranked[i] for i in places))
