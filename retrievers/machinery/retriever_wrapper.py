"""What retrievers share that wrap another one: they need what it needs and promise what it promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl.types import Example, Query
from retrievers.base import Reranker, Resources, Retriever


@dataclass(frozen=True, kw_only=True)
class RetrieverWrapper:
    """Base of wrappers of a retriever `of`."""

    of: Retriever

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def nested(self) -> bool:
        return promised(self.of, "nested", False)

    @property
    def ranked(self) -> bool:
        return promised(self.of, "ranked", True)

    @property
    def exact(self) -> bool:
        return promised(self.of, "exact", True)

    @property
    def leaks(self) -> bool:
        return promised(self.of, "leaks", False)

    @property
    def warning(self) -> str:
        return str(getattr(self.of, "warning", ""))

    @property
    def asks(self) -> str:
        return model_ability_of(self.of)

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Let the retriever inside embed the members of many small pools at once, where it can."""
        prepare: Any = getattr(self.of, "prepare", None)
        if prepare is not None:
            prepare(items, resources)


def model_ability_of(component: Retriever | Reranker) -> str:
    """The ability that it wants of the model, where it needs one: one that does not say reads logits."""
    return str(getattr(component, "asks", "logits"))


def promised(retriever: Retriever, name: str, default: bool) -> bool:
    """A promise of a retriever that need not make it."""
    return bool(getattr(retriever, name, default))
