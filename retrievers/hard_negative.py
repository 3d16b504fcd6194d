"""Hard negatives: the nearest neighbor, then the nearest members with another label than its own.

The label that the negatives differ from is that of the nearest neighbor, so nothing reads the query's gold. When no
other label is left, the nearest of the same label follow and are marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.errors import PlanError
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import RetrievedExample
from retrievers.base import Resources
from retrievers.machinery.similarity import FittedSimilarity, ModalityRetriever, Neighbors, fit_similarity

MARK = "hard_negative: no other label left"


@component("retriever", "hard_negative")
@dataclass(frozen=True)
class HardNegative(ModalityRetriever):
    """The nearest neighbor, then the nearest members with another label than its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError where the pool has a single label."""
        check_two_labels(pool, "hard_negative")
        return fit_similarity(self, pool, resources)

    def reach(self, k: int) -> int:
        return 4 * k + 16

    def pick(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        own = near.example(0).class_name
        others = [i for i in range(1, len(near)) if near.example(i).class_name != own]
        if len(others) < k - 1 and len(near) >= self.reach(k):  # many of one label stand in front: look at all
            near = near.all()
            others = [i for i in range(1, len(near)) if near.example(i).class_name != own]
        same = [i for i in range(1, len(near)) if near.example(i).class_name == own]
        chosen = [0, *others[: k - 1]]
        return [*near.given(chosen), *near.given(same[: k - len(chosen)], MARK)]


def check_two_labels(pool: Pool, name: str) -> None:
    """Raises PlanError where all members have one label."""
    labels = {example.class_name for example in pool.examples}
    if len(labels) < 2:
        raise PlanError(
            f"retriever '{name}' needs a pool with two labels or more, and all {len(pool)} examples have "
            f"{next(iter(labels), 'none')!r}. Use 'knn', or give the examples labels."
        )
