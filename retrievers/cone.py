"""ConE (Peng et al., ACL 2024): the demonstrations that make the words of the query most likely for the model.

    score(q, x) = sum over the tokens t of the question of  log p(t | x, tokens before t)

Each of the `candidates` nearest members is scored alone: the prompt is one demonstration, then the images and the
question of the query. All tokens of the question count, and no token of an answer. Images only condition, because a
model gives no likelihood of their tokens. The score is the sum, not the mean; within one query the ranking is the same.
If there are fewer candidates than shots, the next nearest members follow. (The released mask is one token late and
reads a label; this module follows the formula.)

Differs from the released code in the tokens that count: its mask is one token late, so it leaves out the first token of
the query and includes one after the question, in a prompt with the label of the first class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icl import DataError, PlanError, Pool, PositiveInt, Query, RetrievedExample, StreamKey, component, spans
from icl.models.answer_likelihood import demo_prompt
from retrievers import FittedRetriever, FittedSimilarity, ModalityRetriever, Neighbors, Resources, fit_similarity

BATCH = 32


@component("retriever", "cone")
@dataclass(frozen=True, kw_only=True)
class ConE(ModalityRetriever):
    """The near demonstrations that make the words of the query most likely for the model (ConE)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    model_ability: ClassVar[str] = "text_logprobs"
    ranked: ClassVar[bool] = False

    candidates: PositiveInt = 30  # how many of the nearest members are scored, for any number of shots

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model that computes the likelihood of a text in a prompt."""
        fitted, model = fit_similarity(self, pool, resources), resources.model
        if model is None or self.model_ability not in model.abilities:
            raise PlanError(
                "retriever 'cone' needs a model that scores the query's words, but got "
                f"{'no model' if model is None else repr(model)}. Use the model 'hf', or the retriever 'mdl' or 'knn'."
            )
        return FittedConE(self, pool, fitted.source, fitted.index, model)

    def num_candidates(self, k: int) -> int:
        return max(k, self.candidates)


@dataclass(frozen=True)
class FittedConE(FittedSimilarity):
    """An index over one pool, and the model that scores the candidates."""

    model: Any

    def select_demos(self, neighbors: Neighbors, k: int) -> tuple[RetrievedExample, ...]:
        if len(neighbors) < k:
            raise self.retriever.too_few(self.pool, neighbors.query, k, neighbors.policy)
        assert isinstance(self.retriever, ConE)
        count = min(self.retriever.candidates, len(neighbors))
        scores = self.log_likelihoods(neighbors, count)
        best = np.argsort(-np.round(scores, 6), kind="stable")[:k].tolist()
        demos = [RetrievedExample(neighbors.example(i).id, round(float(scores[i]), 6)) for i in best]
        return (*demos, *neighbors.retrieved(range(count, count + k - len(demos))))

    def log_likelihoods(self, neighbors: Neighbors, count: int) -> "np.ndarray":
        """The log-likelihood of the question under each of the nearest members alone, [count] float64."""
        query: Query = neighbors.query
        if not query.question:
            raise DataError(f"retriever 'cone': query '{query.id}' has no question whose likelihood could be read.")
        prompts = [demo_prompt(query, [neighbors.example(i)], StreamKey(0, query.id)) for i in range(count)]
        self.model.load()
        logprobs: list[Sequence[float]] = []
        for start in range(0, count, BATCH):
            logprobs += self.model.text_logprobs(prompts[start : start + BATCH], spans.QUESTION)
        return np.array([float(np.sum(of_tokens)) for of_tokens in logprobs])
