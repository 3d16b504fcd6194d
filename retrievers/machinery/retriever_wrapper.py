"""Base of retrievers that wrap another retriever. Needs and declared properties are those of the one inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import FittedRetriever, Resources, Retriever, check_takes_policy, declared


@dataclass(frozen=True, kw_only=True)
class RetrieverWrapper:
    """Base of retrievers that wrap a retriever `of`."""

    of: Retriever

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def nested(self) -> bool:
        return bool(declared(self.of, "nested"))

    @property
    def ranked(self) -> bool:
        return bool(declared(self.of, "ranked"))

    @property
    def returns_k(self) -> bool:
        return bool(declared(self.of, "returns_k"))

    @property
    def leaks(self) -> bool:
        return bool(declared(self.of, "leaks"))

    @property
    def warning(self) -> str:
        return str(declared(self.of, "warning"))

    @property
    def model_ability(self) -> str:
        return str(declared(self.of, "model_ability"))

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
