"""Caption similarity (VICL, Zhou et al. 2024): candidates ranked by the model's caption of the query's image.

    score(q, x) = cos(text(caption_q), image_x)

The model under test describes the query's image with greedy decoding. An image-text encoder compares the description
with the images of the candidates. There is one call of the model per query, cached by image, model and prompt.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from icl import Model, NestedComponent, Part, Pool, PositiveInt, Prompt, Query, RetrievedExample, Turn, component
from icl.errors import ConfigError, DataError, PlanError
from icl.models.answer_likelihood import answers
from retrievers import Embedder, EmbeddingSource, Encoder, Resources, RetrievedDemos, Vectors, open_source, reads


@component("reranker", "caption")
@dataclass(frozen=True)
class Caption:
    """Candidates ranked by the model's description of the query's image (VICL)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "model"})
    model_ability: ClassVar[str] = "generate"

    ask: str = "Describe the image in one sentence."  # the prompt for the description of the query's image
    max_new_tokens: PositiveInt = 32  # of the description
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # embeds descriptions and images

    def __post_init__(self) -> None:
        if not reads(self.embedder) >= {"image", "text"}:
            raise ConfigError(f"reranker 'caption' reads texts and images; {self.embedder!r} does not read both.")

    def fit(self, pool: Pool, resources: Resources) -> "FittedCaption":
        """Raises PlanError without a model."""
        if resources.model is None:
            raise PlanError("reranker 'caption' needs a model that describes the query's image, but there is none.")
        return FittedCaption(self, pool, open_source(self.embedder, resources.cache, pool), resources.model)


@dataclass(frozen=True)
class FittedCaption:
    """The images of one pool, and the model that describes queries."""

    reranker: Caption
    pool: Pool
    source: EmbeddingSource
    model: Model

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        without = next((query for query in queries if not query.images), None)
        if without is not None:
            raise DataError(f"reranker 'caption': '{without.id}' has no image to describe.")
        prompts = [
            Prompt((Turn("user", (*map(Part, query.images), Part("\n" + self.reranker.ask))),)) for query in queries
        ]
        captions = answers(self.model, prompts, self.reranker.max_new_tokens)
        texts = self.source.embed_texts(captions)
        return [self._rerank_one(vector, demos, k) for vector, demos in zip(texts, candidates, strict=True)]

    def _rerank_one(
        self, caption: Vectors, candidates: Sequence[RetrievedExample], k: int
    ) -> tuple[RetrievedExample, ...]:
        if not candidates:
            return ()
        images = self.source.embed_images([self.pool.by_id[demo.id] for demo in candidates])
        scores = np.round((images.astype(np.float64) * caption).sum(axis=1), 6)
        best = np.argsort(-scores, kind="stable")[:k].tolist()
        return tuple(RetrievedExample(candidates[i].id, float(scores[i]), candidates[i].mark) for i in best)
