"""A random order for each query, from the stream (seed, query id, "order"): the effect of order by chance."""

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
        places = context.key.numpy("order").permutation(len(ranked))
        return replace(context, demos=tuple(ranked[i] for i in places))
