"""ConE (Peng et al., ACL 2024): demonstrations under which the model finds the query's own words likeliest.

    score(q, x) = sum over the tokens t of the question of  log p(t | x, tokens before t)

The `candidates` nearest are tried, each alone: one demonstration, then the query's images and question. All tokens of
the question count, none of an answer does; an image has no tokens whose likelihood a model tells, so it only
conditions. The sum, not the mean: for one query the ranking is the same. Where the candidates run out, the next nearest
follow. (The released mask is one token late and reads a label; this is the formula.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icl import spans
from icl.constraints import PositiveInt
from icl.errors import DataError, PlanError
from icl.models.answer_likelihood import demo_prompt
from icl.registry import component
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import FittedRetriever, Resources
from retrievers.machinery.similarity import FittedSimilarity, ModalityRetriever, Neighbors, fit_similarity

BATCH = 32


@component("retriever", "cone")
@dataclass(frozen=True, kw_only=True)
class ConE(ModalityRetriever):
    """The near demonstrations that make the query's own words likeliest to the model (ConE)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    asks: ClassVar[str] = "text_logprobs"
    ranked: ClassVar[bool] = False

    candidates: PositiveInt = 30  # the nearest that are tried, whatever the number of shots

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model that tells how likely a text in a prompt is."""
        near, model = fit_similarity(self, pool, resources), resources.model
        if model is None or self.asks not in model.abilities:
            raise PlanError(
                "retriever 'cone' reads how likely a model finds the query's words, and was given "
                f"{'no model' if model is None else repr(model)}. Use the model 'hf', or the retriever 'mdl' or 'knn'."
            )
        return FittedConE(self, pool, near.source, near.index, model)

    def reach(self, k: int) -> int:
        return max(k, self.candidates)


@dataclass(frozen=True)
class FittedConE(FittedSimilarity):
    """An index over one pool, and the model."""

    model: Any

    def _given(self, near: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(near) < k:
            raise self.retriever.too_few(self.pool, near.query, k, near.policy)
        assert isinstance(self.retriever, ConE)
        tried = min(self.retriever.candidates, len(near))
        likely = self.likelihoods(near, tried)
        best = np.argsort(-np.round(likely, 6), kind="stable")[:k].tolist()
        chosen = [RetrievedExample(near.example(i).id, round(float(likely[i]), 6)) for i in best]
        return (*chosen, *near.given(range(tried, tried + k - len(chosen))))

    def likelihoods(self, near: Neighbors, count: int) -> "np.ndarray":
        """[count] float64: of the question, under each of the nearest alone."""
        query: Query = near.query
        if not query.question:
            raise DataError(f"retriever 'cone': query '{query.id}' has no question whose likelihood could be read.")
        prompts = [demo_prompt(query, [near.example(i)], StreamKey(0, query.id)) for i in range(count)]
        self.model.load()
        told: list[Sequence[float]] = []
        for start in range(0, count, BATCH):
            told += self.model.text_logprobs(prompts[start : start + BATCH], spans.QUESTION)
        return np.array([float(np.sum(one)) for one in told])
