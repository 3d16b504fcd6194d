"""Base of `mdl` and `local_entropy`: the model scores sets of near demonstrations, and the best set is returned.

One set is the k nearest members. The other sets are random subsets of the `candidates` nearest: in set j, the k members
with the smallest numbers from (seed, query id, j, member id). For each set, with the nearest demonstration next to the
query, the model gives probabilities of the options. The best set is returned in the order of similarity. A set depends
on k, so the sets are not nested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl.constraints import PositiveInt
from icl.models.answer_likelihood import demo_prompt, entropy, options_of, probabilities, scorer
from icl.models.base import LogitModel
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import FittedRetriever, Resources
from retrievers.machinery.greedy_selection import first_best
from retrievers.machinery.similarity import FittedSimilarity, ModalityRetriever, Neighbors, fit_similarity

INSTEAD = "the retriever 'dpp'"


@dataclass(frozen=True, kw_only=True)
class SubsetRetriever(ModalityRetriever):
    """Base of retrievers that select the set with the best entropy of the model's answer."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    nested: ClassVar[bool] = False
    name: ClassVar[str] = ""
    sign: ClassVar[int] = 1  # 1: prefers high entropy, -1: low entropy

    candidates: PositiveInt = 30  # how many of the nearest members the sets are drawn from
    subsets: PositiveInt = 10  # number of sets that are compared, the k nearest included

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model that gives logits."""
        fitted = fit_similarity(self, pool, resources)
        model = scorer(resources.model, f"retriever '{self.name}'", INSTEAD)
        return FittedSubsetRetriever(self, pool, fitted.source, fitted.index, model, resources.seed)

    def num_candidates(self, k: int) -> int:
        return max(k, self.candidates)


@dataclass(frozen=True)
class FittedSubsetRetriever(FittedSimilarity):
    """An index over one pool, and the model that scores the sets."""

    model: LogitModel
    seed: int

    def select_demos(self, neighbors: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(neighbors) < k:
            raise self.retriever.too_few(self.pool, neighbors.query, k, neighbors.policy)
        sets = self.sets(neighbors.query, [neighbors.example(i).id for i in range(len(neighbors))], k)
        return tuple(neighbors.retrieved(sets[first_best(self.merits(neighbors, sets))]))

    def sets(self, query: Query, ids: Sequence[str], k: int) -> list[tuple[int, ...]]:
        """Distinct sets of k positions among the ids of the nearest members; the first set is the k nearest."""
        retriever = self.retriever
        assert isinstance(retriever, SubsetRetriever)
        key = StreamKey(self.seed, query.id)
        random_sets = [tuple(sorted(key.order(f"subsets/{j}", ids)[:k])) for j in range(1, retriever.subsets)]
        return list(dict.fromkeys([tuple(range(k)), *random_sets]))

    def merits(self, neighbors: Neighbors, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """The signed entropy of the options under each set. The larger, the better."""
        retriever, key = self.retriever, StreamKey(self.seed, neighbors.query.id)
        assert isinstance(retriever, SubsetRetriever)
        options = options_of(neighbors.query, self.pool, f"retriever '{retriever.name}'", INSTEAD)
        prompts = [
            demo_prompt(neighbors.query, [neighbors.example(position) for position in positions[::-1]], key)
            for positions in sets
        ]
        return retriever.sign * entropy(probabilities(self.model, prompts, options))
