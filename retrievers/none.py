"""No demonstrations: the zero-shot arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Pool, Query, component
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


@component("retriever", "none")
@dataclass(frozen=True)
class NoDemos:
    """No demonstrations for any number of shots."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    returns_k: ClassVar[bool] = False  # returns fewer than k

    def fit(self, pool: Pool, resources: Resources) -> "NoDemos":
        return self

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [() for _ in queries]
