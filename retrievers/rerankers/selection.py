"""Rerankers by the vectors of the candidates, by their labels, or by a description of the query."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from icl import (
    Fraction,
    Model,
    NestedComponent,
    Part,
    Pool,
    PositiveInt,
    Prompt,
    Query,
    RetrievedExample,
    Turn,
    component,
)
from icl.errors import ConfigError, DataError, PlanError
from icl.models.answer_likelihood import answers
from retrievers import (
    MODALITIES_OF,
    Embedder,
    EmbeddingSource,
    Encoder,
    Resources,
    RetrievedDemos,
    Vectors,
    check_modalities,
    embed_by_modality,
    open_source,
    reads,
)
from retrievers.machinery.greedy_selection import mmr, select_dissimilar


@dataclass(frozen=True, kw_only=True)
class VectorReranker:
    """Base of rerankers that select candidates by their vectors. A subclass defines `select`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})

    by: Literal["image", "question", "both"] = "image"  # what is compared
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # what makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, MODALITIES_OF[self.by], f"by is '{self.by}', and ")

    def fit(self, pool: Pool, resources: Resources) -> "FittedVectorReranker":
        return FittedVectorReranker(self, pool, open_source(self.embedder, resources.cache, pool))

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        """Positions of at most k candidates in their new order. vectors: [C, D], one unit row per candidate."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedVectorReranker:
    """A vector reranker that is fitted on a pool."""

    reranker: VectorReranker
    pool: Pool
    source: EmbeddingSource

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        return [self._rerank_one(demos, k) for demos in candidates]

    def _rerank_one(self, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        vectors = embed_by_modality([self.pool.by_id[demo.id] for demo in candidates], self.source, self.reranker.by)
        return tuple(candidates[position] for position in self.reranker.select(candidates, vectors, k))


@component("reranker", "diversity")
@dataclass(frozen=True, kw_only=True)
class Diversity(VectorReranker):
    """Candidates with high scores and far from each other (maximal marginal relevance).

    Diversity: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) among candidates of any retriever.

        next = argmax over x not in S of   l score(x) - (1 - l) max over s in S of cos(x, s)

    The relevance is the score of the retriever, which should be a similarity of at most 1 (the score of `bm25` is not).

    No released code.
    """

    balance: Fraction  # l: 1 keeps the order of the retriever; 0 is only diversity after the first

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return mmr(np.array([demo.score for demo in candidates]), vectors, k, self.balance)


@component("reranker", "near_duplicate_cap")
@dataclass(frozen=True, kw_only=True)
class NearDuplicateCap(VectorReranker):
    """Candidates without near-duplicates of better candidates.

    Near-duplicate cap: a candidate that nearly repeats a better one is dropped.

    In the order of rank, a candidate is dropped if its cosine with a candidate that was kept is strictly above the
    threshold. Dropped candidates do not fill up the set, so fewer than k may remain.
    """

    returns_k: ClassVar[bool] = False  # may return fewer than k

    threshold: Fraction = 0.95  # candidates with a larger cosine are near-duplicates

    def select(self, candidates: Sequence[RetrievedExample], vectors: Vectors, k: int) -> Sequence[int]:
        return select_dissimilar(vectors, k, self.threshold)


@component("reranker", "label_balance")
@dataclass(frozen=True)
class LabelBalance:
    """Candidates with at most an equal share of the shots for each label, best first.

    A label gets at most ceil(k / number of labels) demonstrations, in the order of rank. If fewer than k remain, the
    best of the other candidates follow. The labels come from the task: the options of the query if they include every
    label of the pool, otherwise the labels of the pool. The labels of the candidates alone do not count.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def fit(self, pool: Pool, resources: Resources) -> "FittedLabelBalance":
        return FittedLabelBalance(pool, frozenset(example.class_name for example in pool.examples))


@dataclass(frozen=True)
class FittedLabelBalance:
    """The labels of one pool."""

    pool: Pool
    labels: frozenset[str]

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        return [self._rerank_one(query, demos, k) for query, demos in zip(queries, candidates, strict=True)]

    def _rerank_one(self, query: Query, candidates: Sequence[RetrievedExample], k: int) -> tuple[RetrievedExample, ...]:
        if not candidates:
            return ()
        labels = frozenset(query.options) if self.labels <= frozenset(query.options) else self.labels
        share, counts = -(-k // len(labels)), Counter[str]()
        within: list[RetrievedExample] = []
        excess: list[RetrievedExample] = []
        for demo in candidates:
            label = self.pool.by_id[demo.id].class_name
            (within if counts[label] < share else excess).append(demo)
            counts[label] += 1
        return tuple([*within, *excess][:k])


@component("reranker", "caption")
@dataclass(frozen=True)
class Caption:
    """Candidates ranked by the model's description of the query's image (VICL).

    Source: VICL (Zhou et al. 2024).

        score(q, x) = cos(text(caption_q), image_x)

    The model under test describes the query's image with greedy decoding. An image-text encoder compares the
    description with the images of the candidates. There is one call of the model per query, cached by image, model and
    prompt.

    No released code.
    """

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
