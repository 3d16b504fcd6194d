"""Hard negatives: the nearest neighbor, then the nearest members with another label than this neighbor.

The nearest neighbor's label stands in for the query's, so no gold answer is read. If no member with another
label is left, the nearest members with the same label follow with a mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import PlanError, Pool, RetrievedExample, component
from retrievers import FittedSimilarity, ModalityRetriever, Neighbors, Resources, fit_similarity

MARK = "hard_negative: no other label left"


@component("retriever", "hard_negative")
@dataclass(frozen=True)
class HardNegative(ModalityRetriever):
    """The nearest neighbor, then the nearest members with another label than this neighbor."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})
    ranked: ClassVar[bool] = False

    def fit(self, pool: Pool, resources: Resources) -> FittedSimilarity:
        """Raises PlanError if the pool has a single label."""
        check_two_labels(pool, "hard_negative")
        return fit_similarity(self, pool, resources)

    def num_candidates(self, k: int) -> int:
        return 4 * k + 16

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        label = neighbors.example(0).class_name
        others = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name != label]
        if len(others) < k - 1 and len(neighbors) >= self.num_candidates(k):  # the candidates have one label
            neighbors = neighbors.search_whole_pool()
            others = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name != label]
        same = [i for i in range(1, len(neighbors)) if neighbors.example(i).class_name == label]
        selected = [0, *others[: k - 1]]
        return [*neighbors.retrieved(selected), *neighbors.retrieved(same[: k - len(selected)], MARK)]


def check_two_labels(pool: Pool, name: str) -> None:
    """Raises PlanError if all members have one label."""
    labels = {example.class_name for example in pool.examples}
    if len(labels) < 2:
        raise PlanError(
            f"retriever '{name}' needs a pool with two labels or more, and all {len(pool)} examples have "
            f"{next(iter(labels), 'none')!r}. Use 'knn', or add labels to the examples."
        )
