"""An orderer and transform that marks whether its query has the gold."""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.types import Context


@dataclass(frozen=True)
class Blind:
    """Declares nothing."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        mark = f"saw {type(context.query).__name__}" + (", saw the gold" if hasattr(context.query, "answers") else "")
        return replace(context, provenance=(*context.provenance, mark))

    transform = order


@dataclass(frozen=True)
class Oracle(Blind):
    """Declares the gold."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold"})
