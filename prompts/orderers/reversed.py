"""The retriever's order reversed, as published for RICES: the best demonstration is next to the query.

It is the exact reverse of the ranking, ties included, and the default of an experiment.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context


@component("orderer", "reversed")
@dataclass(frozen=True)
class Reversed:
    """The retriever's order reversed: best last, next to the query. The usual order of retrieved demonstrations."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        return replace(context, demos=tuple(sorted(context.demos, key=lambda demo: -demo.rank)))
