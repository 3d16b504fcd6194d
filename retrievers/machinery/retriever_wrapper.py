"""Base of retrievers that wrap another retriever. Needs and declared properties are those of the one inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import FittedRetriever, Reranker, Resources, Retriever, check_takes_policy


@dataclass(frozen=True, kw_only=True)
class RetrieverWrapper:
    """Base of retrievers that wrap a retriever `of`."""

    of: Retriever

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def nested(self) -> bool:
        return declared(self.of, "nested", False)

    @property
    def ranked(self) -> bool:
        return declared(self.of, "ranked", True)

    @property
    def returns_k(self) -> bool:
        return declared(self.of, "returns_k", True)

    @property
    def leaks(self) -> bool:
        return declared(self.of, "leaks", False)

    @property
    def warning(self) -> str:
        return str(getattr(self.of, "warning", ""))

    @property
    def model_ability(self) -> str:
        return model_ability_of(self.of)

    def fit_inner(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Fit the retriever inside. Raises PlanError if it does not take the leak policy."""
        fitted = self.of.fit(pool, resources)
        check_takes_policy(fitted)
        return fitted

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools at once, if the retriever inside can."""
        prepare: Any = getattr(self.of, "prepare", None)
        if prepare is not None:
            prepare(items, resources)


def model_ability_of(component: Retriever | Reranker) -> str:
    """The ability of the model that a component needs; 'logits' by default."""
    return str(getattr(component, "model_ability", "logits"))


def declared(retriever: Retriever, name: str, default: bool) -> bool:
    """An optional property of a retriever, or its default."""
    return bool(getattr(retriever, name, default))
