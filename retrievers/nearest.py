"""Nearest neighbors: the members with the highest similarity to the query, by one vector or by the vectors of parts."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from icl import Example, PlanError, Pool, Query, component
from retrievers import EmbeddingSource, ModalityRetriever, PartMatches, SimilarityRetriever, TextField, demo_text
from retrievers.base import LeakPolicy, Vectors
from retrievers.machinery.multi_vector import MultiVectorRetriever


@component("retriever", "knn", "rices", "kate", "nearest_neighbors")
@dataclass(frozen=True)
class KNN(ModalityRetriever):
    """The nearest neighbors of the query by image, question or both (RICES).

    Nearest neighbors: RICES (Yang et al. 2022; Alayrac et al. 2022) by image, by question, or by both.

        score(q, x) = cos(q, x)                                               image or question
        score(q, x) = w cos(image_q, image_x) + (1 - w) cos(question_q, question_x)        both

    `both` is the weighted mean of the two cosines: the dot product of concatenated unit vectors, each scaled by the
    root of its weight. A concatenation of raw vectors would let the one with the larger norm decide. Equal scores are
    in the order of the pool.

    Differs from the released code in the members that may be retrieved: OpenFlamingo's RICES has no check for the
    query's own image. The orderer decides the order (by default the nearest last).
    """


@component("retriever", "i2t")
@dataclass(frozen=True)
class ImageToText(SimilarityRetriever):
    """Demonstrations with the text nearest to the query's image.

    From image to text: compares the query's image with the text of demonstrations (cross-modal retrieval, CLIP).

        score(q, x) = cos(image_q, text_x)

    The text of a demonstration is its answer (a caption), its question, or both. The encoder must have one space for
    images and texts. Its modality gap shifts all scores equally and does not change the ranking (see the embedder
    `centered`).
    """

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    text: TextField = "answer"  # which text of a demonstration is compared

    @property
    def compared_text(self) -> TextField:
        return self.text

    @property
    def index_key(self) -> Hashable:
        return ("i2t", self.text)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([demo_text(example, self.text) for example in examples])

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(queries)


@component("retriever", "t2i")
@dataclass(frozen=True)
class TextToImage(SimilarityRetriever):
    """Demonstrations with the images nearest to the query's question.

    From text to image: compares the query's question with the images of demonstrations (cross-modal retrieval, CLIP).

        score(q, x) = cos(question_q, image_x)

    The encoder must have one space for images and texts.
    """

    index_key: ClassVar[Hashable] = ("compared", "image", None)

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_images(examples)

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([query.question for query in queries])


@component("retriever", "late_interaction")
@dataclass(frozen=True)
class LateInteraction(MultiVectorRetriever):
    """Nearest by the mean of each patch's or word's best match (FILIP).

    Late interaction (FILIP, Yao et al., ICLR 2022): the mean best match of the parts of the query in a member.

        score(q, x) = mean over the parts t of q of  max over the parts j of x of  cos(t, j)

    The parts of images are patches, the parts of questions are words; `both` is the weighted mean of the two. The mean
    is over the parts of the query, so the score of x for q differs from the score of q for x.

    No released code.
    """

    def select(self, matches: PartMatches, k: int) -> list[int]:
        scores = np.round(matches.scores(), 6)
        return [int(i) for i in np.argsort(-scores, kind="stable")[:k]]


@component("retriever", "topk_nearest")
@dataclass(frozen=True)
class TopKNearest(ModalityRetriever):
    """The nearest images from the source domains (TopKNearestPR).

    TopKNearestPR (Zhou et al. 2024): nearest images among the labeled members of the *source* domains.

        score(q, x) = cos(image_q, image_x),    x of a source domain

    Under a distribution shift, the query comes from a domain without labels. The source domains are listed in
    `sources`; by default all domains of the pool except the query's. A pool without domains is a single source.

    No released code.
    """

    sources: tuple[str, ...] = ()  # domains that demonstrations come from; empty: all but the query's

    def is_eligible(self, example: Example, query: Query) -> bool:
        """Whether a member is of a source domain of the query."""
        if self.sources:
            return example.domain in self.sources and example.domain != query.domain
        return example.domain is None or example.domain != query.domain

    def too_few(self, pool: Pool, query: Query, k: int, policy: LeakPolicy) -> PlanError:
        outside = sum(not self.is_eligible(example, query) for example in pool.examples)
        if not outside:
            return policy.too_few(pool, query, k)
        part = Pool(tuple(example for example in pool.examples if self.is_eligible(example, query)))
        message = policy.too_few(part, query, k)
        return PlanError(f"{message} ({outside} of the pool's {len(pool)} are of no source domain.)")


@component("retriever", "oracle")
@dataclass(frozen=True)
class Oracle(SimilarityRetriever):
    """Nearest by the gold answer of the query: an upper bound.

    The oracle: nearest by the gold answer (Li et al. 2024; Baldassini et al. 2024), an upper bound of answer copying.

        score(q, x) = cos(answer_q, answer_x)

    It reads the gold answer of the query and declares it in `needs`. Its results are a bound for other retrievers and
    are not comparable with them.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "gold"})
    index_key: ClassVar[Hashable] = ("answers",)
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        return source.embed_texts([example.answer for example in examples])

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        gold_answers = [query.answer for query in queries if isinstance(query, Example)]
        if len(gold_answers) < len(queries):
            raise PlanError("retriever 'oracle' needs the gold answers, but the queries have none. Pass examples.")
        return source.embed_texts(gold_answers)
