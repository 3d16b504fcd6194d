"""The order of the retriever: its best demonstration first, farthest from the query."""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context


@component("orderer", "as_retrieved")
@dataclass(frozen=True)
class AsRetrieved:
    """The retriever's order: best first, the least similar next to the query."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        return replace(context, demos=tuple(sorted(context.demos, key=lambda demo: demo.rank)))
