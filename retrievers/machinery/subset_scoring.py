"""What retrievers share that let the model choose among sets of near demonstrations.

One set is the k nearest, the others are drawn at random among the `candidates` nearest, from its own stream. Under each
set, shown with the nearest next to the query, the model gives probabilities of the options. The set that is chosen is
given by similarity. A set depends on k, so nothing is nested.
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
    """Base of `mdl` and `local_entropy`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    nested: ClassVar[bool] = False
    name: ClassVar[str] = ""
    sign: ClassVar[int] = 1  # of the entropy in the merit of a set

    candidates: PositiveInt = 30  # the nearest among which sets are drawn
    subsets: PositiveInt = 10  # sets compared, the k nearest among them

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model that gives logits."""
        near = fit_similarity(self, pool, resources)
        model = scorer(resources.model, f"retriever '{self.name}'", INSTEAD)
        return FittedSubsetRetriever(self, pool, near.source, near.index, model, resources.seed)

    def reach(self, k: int) -> int:
        return max(k, self.candidates)


@dataclass(frozen=True)
class FittedSubsetRetriever(FittedSimilarity):
    """An index over one pool, and the model."""

    model: LogitModel
    seed: int

    def _given(self, near: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(near) < k:
            raise self.retriever.too_few(self.pool, near.query, k, near.policy)
        sets = self.sets(near.query, len(near), k)
        return tuple(near.given(sets[first_best(self.merits(near, sets))]))

    def sets(self, query: Query, count: int, k: int) -> list[tuple[int, ...]]:
        """Different sets of k places among the nearest `count`, the k nearest first."""
        retriever = self.retriever
        assert isinstance(retriever, SubsetRetriever)
        rng = StreamKey(self.seed, query.id).numpy("subsets")
        drawn = [tuple(sorted(rng.permutation(count)[:k].tolist())) for _ in range(retriever.subsets - 1)]
        return list(dict.fromkeys([tuple(range(k)), *drawn]))

    def merits(self, near: Neighbors, sets: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """The signed entropy of the options under each set; the larger, the better."""
        retriever, key = self.retriever, StreamKey(self.seed, near.query.id)
        assert isinstance(retriever, SubsetRetriever)
        options = options_of(near.query, self.pool, f"retriever '{retriever.name}'", INSTEAD)
        prompts = [demo_prompt(near.query, [near.example(place) for place in places[::-1]], key) for places in sets]
        return retriever.sign * entropy(probabilities(self.model, prompts, options))
