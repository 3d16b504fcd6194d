"""By question and answer together: first the model answers, then what it said is looked for (Li et al., CVPR 2024).

    score(q, x) = w cos(image_q, image_x) + (1 - w) cos(text(question_q answer_q), text(question_x answer_x))

    preset sqa           the query's answer is the model's own, without demonstrations; w = 0
    preset oracle_sqa    it is the gold, as in the released code: an upper bound
    preset iqpr          the model's own, and the image weighs as much as the text (the baseline of TACO, Li 2025, by
                         what its name says: no definition could be read)

The model's answer is greedy and remembered: one call a query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from icl.constraints import Fraction, PositiveInt
from icl.errors import PlanError
from icl.models.answer_likelihood import demo_prompt
from icl.models.short_answers import answers
from icl.registry import component
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import FittedRetriever, Resources
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.similarity import FittedSimilarity, SimilarityRetriever, fit_similarity
from retrievers.machinery.vector_math import Vectors


@component("retriever", "sqa")
@dataclass(frozen=True)
class SQA(SimilarityRetriever):
    """Nearest by question and answer together; the query's answer is the model's own first guess (SQA)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sqa": {},
        "oracle_sqa": {"answer": "gold"},
        "iqpr": {"weight": 0.5},
    }
    asks: ClassVar[str] = "generate"

    answer: Literal["model", "gold"] = "model"  # of the query: the model's first guess, or (oracle) the right one
    weight: Fraction = 0.0  # of the image's cosine
    max_new_tokens: PositiveInt = 16  # of the first guess

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"embedder", self.answer, "labels"})

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"text", "image"} if self.weight else {"text"})

    @property
    def key(self) -> tuple[str, float]:
        return "sqa", self.weight

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError without a model, where the answer is its own."""
        near, model = fit_similarity(self, pool, resources), resources.model
        if model is None and self.answer == "model":
            raise PlanError("retriever 'sqa' asks a model for a first answer, and there is none. Use 'knn'.")
        return FittedSQA(self, pool, near.source, near.index, model)

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Nothing ahead: a query's text is not known before the model spoke."""

    def documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return self.joined(examples, [example.answer for example in examples], source)

    def joined(self, items: Sequence[Query | Example], said: Sequence[str], source: EmbeddingSource) -> Vectors:
        """[N, D]: a dot product of two rows is the score."""
        texts = source.embed_texts([f"{item.question} {text}".strip() for item, text in zip(items, said, strict=True)])
        if not self.weight:
            return texts
        images = source.embed_images(items)
        return np.hstack([images * np.float32(self.weight**0.5), texts * np.float32((1 - self.weight) ** 0.5)])


@dataclass(frozen=True)
class FittedSQA(FittedSimilarity):
    """An index of questions with answers, and the model."""

    model: Any

    def asked(self, queries: Sequence[Query]) -> Vectors:
        retriever = self.retriever
        assert isinstance(retriever, SQA)
        if retriever.answer == "gold":
            golds: list[Any] = list(queries)
            said = [gold.answer for gold in golds]
        else:
            prompts = [demo_prompt(query, [], StreamKey(0, query.id)) for query in queries]
            said = answers(self.model, prompts, retriever.max_new_tokens)
        return retriever.joined(queries, said, self.source)
