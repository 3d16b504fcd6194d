"""Question and answer together: the model answers first, and the search uses its answer (Li et al., CVPR 2024).

    score(q, x) = w cos(image_q, image_x) + (1 - w) cos(text(question_q answer_q), text(question_x answer_x))

    preset sqa           answer_q is the model's answer without demonstrations; w = 0
    preset oracle_sqa    answer_q is the gold answer, as in the released code: an upper bound
    preset iqpr          answer_q is the model's answer, and image and text have equal weights (a baseline of TACO, Li
                         2025; reconstructed from its name, because no definition is published)

The model's answer is greedy and cached: one call per query.

Differs from the released code in the preset `sqa`: the released query has the gold answer, as `oracle_sqa`. The
released mixture of image and text sorts distances in the wrong direction, so it takes the farthest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from icl import Example, Fraction, PlanError, Pool, PositiveInt, Query, StreamKey, component
from icl.models import answers, demo_prompt
from retrievers import FittedRetriever, FittedSimilarity, Resources, SimilarityRetriever, Vectors, fit_similarity
from retrievers.machinery.embeddings import EmbeddingSource


@component("retriever", "sqa")
@dataclass(frozen=True)
class SQA(SimilarityRetriever):
    """Nearest by question and answer together; the query's answer is the model's first guess (SQA)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sqa": {},
        "oracle_sqa": {"answer": "gold"},
        "iqpr": {"weight": 0.5},
    }
    model_ability: ClassVar[str] = "generate"

    answer: Literal["model", "gold"] = "model"  # of the query: the model's first guess, or the gold answer (oracle)
    weight: Fraction = 0.0  # of the image's cosine
    max_new_tokens: PositiveInt = 16  # of the first guess

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"embedder", self.answer, "labels"})

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"text", "image"} if self.weight else {"text"})

    @property
    def index_key(self) -> tuple[str, float]:
        return "sqa", self.weight

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError if the model must answer and there is no model."""
        fitted, model = fit_similarity(self, pool, resources), resources.model
        if model is None and self.answer == "model":
            raise PlanError("retriever 'sqa' needs a model for a first answer, but there is none. Use 'knn'.")
        return FittedSQA(self, pool, fitted.source, fitted.index, model)

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Does nothing: the text of a query is unknown until the model answers."""

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return self.embed_with_answers(examples, [example.answer for example in examples], source)

    def embed_with_answers(
        self, items: Sequence[Query | Example], item_answers: Sequence[str], source: EmbeddingSource
    ) -> Vectors:
        """[N, D]; the dot product of two vectors is the score."""
        texts = source.embed_texts(
            [f"{item.question} {answer}".strip() for item, answer in zip(items, item_answers, strict=True)]
        )
        if not self.weight:
            return texts
        images = source.embed_images(items)
        return np.hstack([images * np.float32(self.weight**0.5), texts * np.float32((1 - self.weight) ** 0.5)])


@dataclass(frozen=True)
class FittedSQA(FittedSimilarity):
    """An index over questions with answers, and the model that answers queries."""

    model: Any

    def embed_queries(self, queries: Sequence[Query]) -> Vectors:
        retriever = self.retriever
        assert isinstance(retriever, SQA)
        if retriever.answer == "gold":
            golds: list[Any] = list(queries)
            query_answers = [gold.answer for gold in golds]
        else:
            prompts = [demo_prompt(query, [], StreamKey(0, query.id)) for query in queries]
            query_answers = answers(self.model, prompts, retriever.max_new_tokens)
        return retriever.embed_with_answers(queries, query_answers, self.source)
