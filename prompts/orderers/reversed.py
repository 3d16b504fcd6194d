"""The retriever's order reversed, as published for RICES: the best demonstration stands next to the query.

The exact reverse of the ranking, so that ties are reversed too. It is the default of an experiment.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context


@component("orderer", "reversed")
@dataclass(frozen=True)
class Reversed:
    """Best last, next to the query: the usual order of retrieved demonstrations."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        return replace(context, demos=tuple(sorted(context.demos, key=lambda demo: -demo.rank)))
