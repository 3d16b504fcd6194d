"""What retrievers share that compare patches with patches and words with words.

    match(t, x) = the largest cosine of part t of the query with any part of member x

Padding takes no part. Every member of the pool is compared, part by part: for pools of thousands, not of millions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from icl.constraints import Fraction
from icl.errors import ConfigError, DataError
from icl.registry import NestedComponent
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Embedder, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.embedding_cache import EmbeddingCache, shared_cache
from retrievers.machinery.greedy_selection import Array, PartMatches
from retrievers.machinery.vector_math import Vectors, all_images

Parts = tuple[Vectors, ...]
"""[N, P, D] for each modality that is compared."""


@dataclass(frozen=True, eq=False)
class PoolParts:
    """The parts of a pool, place by place: vectors [P, N, D], and where there are none, absent [P, N]."""

    vectors: Vectors
    absent: NDArray[np.bool_]

    @classmethod
    def of(cls, parts: Vectors) -> "PoolParts":
        """parts: [N, P, D], rows of zeros padding."""
        vectors = np.ascontiguousarray(parts.transpose(1, 0, 2))
        return cls(vectors, np.asarray(~vectors.any(axis=2), dtype=np.bool_))

    def matches(self, asked: Vectors) -> NDArray[np.float32]:
        """asked: [T, D] -> [T, N], the largest cosine with any part of each member.

        In blocks of one shape, so that what else is asked changes no bit of a row's sums.
        """
        out = np.full((len(asked), self.vectors.shape[1]), ABSENT, np.float32)
        block = np.zeros((ROWS, asked.shape[1]), np.float32)
        for start in range(0, len(asked), ROWS):
            some = asked[start : start + ROWS]
            block[: len(some)], block[len(some) :] = some, 0
            best = out[start : start + ROWS]
            for vectors, absent in zip(self.vectors, self.absent, strict=True):
                scores = block @ vectors.T
                scores[:, absent] = ABSENT
                np.maximum(best, scores[: len(some)], out=best)
        return out


_PARTS: "WeakKeyDictionary[Pool, dict[tuple[EmbeddingCache, str], tuple[PoolParts, ...]]]" = WeakKeyDictionary()

ROWS = 64
"""Parts of queries in one matrix product."""

TOGETHER = 16
"""Queries compared in one call: bounds the memory."""

ABSENT = -1.0
"""The match with a member that has no such part at all."""


@dataclass(frozen=True)
class MultiVectorRetriever:
    """Base of retrievers over parts. `choose` gives places among the allowed members and their scores."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True

    by: Literal["image", "question", "both"] = "image"  # patches, words, or both
    weight: Fraction = 0.5  # of all patches together where by is 'both'; each modality's parts weigh alike
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # gives patches and words

    def __post_init__(self) -> None:
        for what, when in (("embed_patches", "image"), ("embed_words", "question")):
            if self.by in (when, "both") and not hasattr(self.embedder, what):
                raise ConfigError(
                    f"by is '{self.by}', and its embedder {self.embedder!r} gives no vectors of "
                    f"{what.removeprefix('embed_')}. "
                    f"Use the embedder 'encoder'."
                )

    def fit(self, pool: Pool, resources: Resources) -> "FittedMultiVector":
        source = shared_cache(self.embedder, resources.cache)
        kept = _PARTS.setdefault(pool, {})
        if (source, self.by) not in kept:
            kept[source, self.by] = tuple(map(PoolParts.of, self.parts(pool.examples, source)))
        return FittedMultiVector(self, pool, source, kept[source, self.by])

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches, before each pool is fitted."""
        self.parts(items, shared_cache(self.embedder, resources.cache))

    def parts(self, items: Sequence[Query | Example], source: EmbeddingCache) -> Parts:
        """The vectors of all parts of the items, by modality: patches first."""
        found: list[Vectors] = []
        if self.by != "question":
            found.append(_by_item(items, source.embed_patches(all_images(items))))
        if self.by != "image":
            found.append(source.embed_words([item.question for item in items]))
        return tuple(found)

    def shares(self) -> tuple[float, ...]:
        """The weight of each modality."""
        return (self.weight, 1 - self.weight) if self.by == "both" else (1.0,)

    def choose(self, matches: PartMatches, k: int) -> list[int]:
        """Places among the columns of `matches`, in the order of picking."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedMultiVector:
    """The parts of one pool."""

    retriever: MultiVectorRetriever
    pool: Pool
    source: EmbeddingCache
    parts: tuple[PoolParts, ...]

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        if k == 0:
            return [() for _ in queries]
        groups = (queries[start : start + TOGETHER] for start in range(0, len(queries), TOGETHER))
        return [
            self._chosen(query, matches, k, policy)
            for group in groups
            for query, matches in zip(group, self.matches(group), strict=True)
        ]

    def _chosen(self, query: Query, whole: PartMatches, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed = policy.allowed_for(query)
        rows = [i for i, example in enumerate(self.pool.examples) if is_allowed(example)]
        if len(rows) < k:
            raise policy.too_few(self.pool, query, k)
        matches = PartMatches(whole.matches[:, rows], self.weighed(query, whole.weights))
        scores, chosen = matches.alone(), self.retriever.choose(matches, k)
        return tuple(RetrievedExample(self.pool.examples[rows[i]].id, round(float(scores[i]), 6)) for i in chosen)

    def weighed(self, query: Query, weights: Array) -> Array:
        """The weights of the query's parts, patches first: within a modality all weigh alike."""
        return weights

    def matches(self, queries: Sequence[Query]) -> list[PartMatches]:
        """Of every part of each query with every member of the pool."""
        found: list[list[NDArray[np.float32]]] = [[] for _ in queries]
        weights: list[list[NDArray[np.float64]]] = [[] for _ in queries]
        for asked, members, share in zip(
            self.retriever.parts(queries, self.source), self.parts, self.retriever.shares(), strict=True
        ):
            real = [rows[rows.any(axis=1)] for rows in asked]
            for query, rows in zip(queries, real, strict=True):
                if not len(rows):
                    raise DataError(f"query '{query.id}' has no words to compare: its question is {query.question!r}.")
            ends = np.cumsum([len(rows) for rows in real])[:-1]
            for i, part in enumerate(np.split(members.matches(np.concatenate(real)), ends)):
                found[i].append(part)
                weights[i].append(np.full(len(part), share / len(part)))
        return [PartMatches(np.concatenate(f), np.concatenate(w)) for f, w in zip(found, weights, strict=True)]


def _by_item(items: Sequence[Query | Example], patches: Vectors) -> Vectors:
    """[images, P, D] -> [N, P', D]: the patches of an item's images one after the other, padded with zeros."""
    counts = [len(item.images) for item in items]
    if all(count == 1 for count in counts):
        return patches
    _, size, dim = patches.shape
    out = np.zeros((len(items), size * max(counts, default=0), dim), np.float32)
    for i, start in enumerate(np.cumsum([0, *counts[:-1]])):
        own = patches[start : start + counts[i]].reshape(-1, dim)
        out[i, : len(own)] = own
    return out
