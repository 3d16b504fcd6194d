"""Base of retrievers that select a set from the nearest candidates, such as `mmr` and `dpp`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from icl.constraints import PositiveInt
from icl.types import RetrievedExample
from retrievers.machinery.similarity import ModalityRetriever, Neighbors


@dataclass(frozen=True, kw_only=True)
class CandidateSetRetriever(ModalityRetriever):
    """Base of retrievers that select a set from the nearest `candidates`.

    If there are fewer candidates than shots, the next nearest members follow. The candidates do not depend on the
    number of shots, so a greedy selection is nested.
    """

    candidates: PositiveInt = 100  # how many of the nearest members the set is selected from

    def num_candidates(self, k: int) -> int:
        return max(k, self.candidates)

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        first = replace(neighbors, rows=neighbors.rows[: self.candidates], scores=neighbors.scores[: self.candidates])
        demos = list(self.choose_set(first, min(k, len(first))))
        return (
            [*demos, *neighbors.retrieved(range(len(first), len(first) + k - len(demos)))] if self.returns_k else demos
        )

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        """Select k of the candidates; fewer only if `returns_k` is False."""
        raise NotImplementedError
