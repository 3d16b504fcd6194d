"""A random order of each query's own, from the stream (seed, query id, "order"): what order is worth, by chance."""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context


@component("orderer", "random")
@dataclass(frozen=True)
class Random:
    """A random order, the same for a query in every arm that shows it the same demonstrations."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        ranked = sorted(context.demos, key=lambda demo: demo.rank)
        places = context.key.numpy("order").permutation(len(ranked))
        return replace(context, demos=tuple(ranked[i] for i in places))
