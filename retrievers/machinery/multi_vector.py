"""Base of retrievers that compare parts: patches with patches and words with words.

    match(t, x) = the largest cosine of part t of the query with any part of member x

Every member is compared, part by part, so this is for pools of thousands, not of millions. The embedder has the methods

    embed_patches(images) -> [N, P, D]    unit rows
    embed_words(texts) -> [N, W, D]       unit rows of tokens, without special tokens

Rows of zeros are padding and are excluded. P and W do not depend on the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from icl import ConfigError, DataError, Embedder, Example, Fraction, NestedComponent, Pool, Query, RetrievedExample
from retrievers import Array, Encoder, PartMatches
from retrievers.base import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos, Vectors, all_images
from retrievers.machinery.embeddings import EmbeddingCache, shared_cache

PartVectors = tuple[Vectors, ...]
"""[N, P, D] for each modality that is compared."""


@dataclass(frozen=True, eq=False)
class PoolParts:
    """The parts of all members of a pool, in one modality.

    vectors: [P, N, D]. absent: [P, N], True for padding.
    """

    vectors: Vectors
    absent: NDArray[np.bool_]

    @classmethod
    def of(cls, parts: Vectors) -> "PoolParts":
        """parts: [N, P, D]; rows of zeros are padding."""
        vectors = np.ascontiguousarray(parts.transpose(1, 0, 2))
        return cls(vectors, np.asarray(~vectors.any(axis=2), dtype=np.bool_))

    def matches(self, query_parts: Vectors) -> NDArray[np.float32]:
        """The largest cosine of each query part with any part of each member: [T, D] -> [T, N].

        All matrix products have one shape, so other parts cannot change the rounding of a row.
        """
        out = np.full((len(query_parts), self.vectors.shape[1]), ABSENT, np.float32)
        block = np.zeros((BLOCK_PARTS, query_parts.shape[1]), np.float32)
        for start in range(0, len(query_parts), BLOCK_PARTS):
            rows = query_parts[start : start + BLOCK_PARTS]
            block[: len(rows)], block[len(rows) :] = rows, 0
            best = out[start : start + BLOCK_PARTS]
            for vectors, absent in zip(self.vectors, self.absent, strict=True):
                scores = block @ vectors.T
                scores[:, absent] = ABSENT
                np.maximum(best, scores[: len(rows)], out=best)
        return out


_PARTS: "WeakKeyDictionary[Pool, dict[tuple[EmbeddingCache, str], tuple[PoolParts, ...]]]" = WeakKeyDictionary()

BLOCK_PARTS = 64
"""Parts of queries per matrix product."""

BATCH_QUERIES = 16
"""Queries per call. It bounds the memory."""

ABSENT = -1.0
"""The match with a member that has no part of the modality."""


@dataclass(frozen=True)
class MultiVectorRetriever:
    """Base of retrievers that compare parts. A subclass defines `select`."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True

    by: Literal["image", "question", "both"] = "image"  # patches, words, or both
    weight: Fraction = 0.5  # of all patches together where by is 'both'; parts of a modality have equal weights
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # gives patches and words

    def __post_init__(self) -> None:
        for what, modality in (("embed_patches", "image"), ("embed_words", "question")):
            if self.by in (modality, "both") and not hasattr(self.embedder, what):
                raise ConfigError(
                    f"by is '{self.by}', and its embedder {self.embedder!r} gives no vectors of "
                    f"{what.removeprefix('embed_')}. "
                    f"Use the embedder 'encoder'."
                )

    def fit(self, pool: Pool, resources: Resources) -> "FittedMultiVector":
        source = shared_cache(self.embedder, resources.cache)
        of_pool = _PARTS.setdefault(pool, {})
        if (source, self.by) not in of_pool:
            of_pool[source, self.by] = tuple(map(PoolParts.of, self.embed_parts(pool.examples, source)))
        return FittedMultiVector(self, pool, source, of_pool[source, self.by])

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches, before each pool is fitted."""
        self.embed_parts(items, shared_cache(self.embedder, resources.cache))

    def embed_parts(self, items: Sequence[Query | Example], source: EmbeddingCache) -> PartVectors:
        """The vectors of all parts of the items by modality, patches first."""
        vectors: list[Vectors] = []
        if self.by != "question":
            vectors.append(_by_item(items, source.embed_patches(all_images(items))))
        if self.by != "image":
            vectors.append(source.embed_words([item.question for item in items]))
        return tuple(vectors)

    def modality_weights(self) -> tuple[float, ...]:
        """The weight of each modality."""
        return (self.weight, 1 - self.weight) if self.by == "both" else (1.0,)

    def select(self, matches: PartMatches, k: int) -> list[int]:
        """Select k columns of `matches`, best first."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedMultiVector:
    """A multi-vector retriever that is fitted on a pool: the parts of all members."""

    retriever: MultiVectorRetriever
    pool: Pool
    source: EmbeddingCache
    parts: tuple[PoolParts, ...]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if k == 0:
            return [() for _ in queries]
        groups = (queries[start : start + BATCH_QUERIES] for start in range(0, len(queries), BATCH_QUERIES))
        return [
            self._select(query, matches, k, policy)
            for group in groups
            for query, matches in zip(group, self.matches(group), strict=True)
        ]

    def _select(
        self, query: Query, all_matches: PartMatches, k: int, policy: LeakPolicy
    ) -> tuple[RetrievedExample, ...]:
        is_allowed = policy.allowed_for(query)
        rows = [i for i, example in enumerate(self.pool.examples) if is_allowed(example)]
        if len(rows) < k:
            raise policy.too_few(self.pool, query, k)
        matches = PartMatches(all_matches.matches[:, rows], self.part_weights(query, all_matches.weights))
        scores, selected = matches.scores(), self.retriever.select(matches, k)
        return tuple(RetrievedExample(self.pool.examples[rows[i]].id, round(float(scores[i]), 6)) for i in selected)

    def part_weights(self, query: Query, weights: Array) -> Array:
        """The weights of the query's parts, patches first. By default, all parts of a modality have equal weights."""
        return weights

    def matches(self, queries: Sequence[Query]) -> list[PartMatches]:
        """The matches of all parts of each query with all members of the pool."""
        matches: list[list[NDArray[np.float32]]] = [[] for _ in queries]
        weights: list[list[NDArray[np.float64]]] = [[] for _ in queries]
        for vectors, members, weight in zip(
            self.retriever.embed_parts(queries, self.source), self.parts, self.retriever.modality_weights(), strict=True
        ):
            without_padding = [rows[rows.any(axis=1)] for rows in vectors]
            for query, rows in zip(queries, without_padding, strict=True):
                if not len(rows):
                    raise DataError(f"query '{query.id}' has no words to compare: its question is {query.question!r}.")
            ends = np.cumsum([len(rows) for rows in without_padding])[:-1]
            for i, part in enumerate(np.split(members.matches(np.concatenate(without_padding)), ends)):
                matches[i].append(part)
                weights[i].append(np.full(len(part), weight / len(part)))
        return [PartMatches(np.concatenate(m), np.concatenate(w)) for m, w in zip(matches, weights, strict=True)]


def _by_item(items: Sequence[Query | Example], patches: Vectors) -> Vectors:
    """The patches of all images of each item, padded with zeros: [images, P, D] -> [N, P', D]."""
    counts = [len(item.images) for item in items]
    if all(count == 1 for count in counts):
        return patches
    _, size, dim = patches.shape
    out = np.zeros((len(items), size * max(counts, default=0), dim), np.float32)
    for i, start in enumerate(np.cumsum([0, *counts[:-1]])):
        of_item = patches[start : start + counts[i]].reshape(-1, dim)
        out[i, : len(of_item)] = of_item
    return out
