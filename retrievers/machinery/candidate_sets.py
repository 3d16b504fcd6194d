"""What retrievers share that choose a set among the nearest candidates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from icl.constraints import PositiveInt
from icl.types import RetrievedExample
from retrievers.machinery.similarity import ModalityRetriever, Neighbors


@dataclass(frozen=True, kw_only=True)
class CandidateSetRetriever(ModalityRetriever):
    """Base of retrievers that choose among the nearest `candidates`; where these run out, the next nearest follow.

    The candidates do not depend on the number of shots, so a greedy choice is nested.
    """

    candidates: PositiveInt = 100  # the nearest members among which the set is chosen

    def reach(self, k: int) -> int:
        return max(k, self.candidates)

    def pick(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        first = replace(near, rows=near.rows[: self.candidates], scores=near.scores[: self.candidates])
        chosen = list(self.choose(first, min(k, len(first))))
        return [*chosen, *near.given(range(len(first), len(first) + k - len(chosen)))] if self.exact else chosen

    def choose(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        """k of the candidates; where `exact`, never fewer."""
        raise NotImplementedError
