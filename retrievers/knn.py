"""Nearest neighbours: RICES (Yang et al. 2022; Alayrac et al. 2022) by picture, by question, or by both.

    score(q, x) = cos(q, x)                                               picture or question
    score(q, x) = w cos(picture_q, picture_x) + (1 - w) cos(question_q, question_x)        both

`both` is the weighted mean of the two cosines (the dot product of the concatenated unit vectors, each scaled by the
root of its weight), not the concatenation of raw vectors, which lets the longer one decide. Exact; equal scores are in
the order of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np

from icl.errors import ConfigError
from icl.params import Share
from icl.registry import Nested, component
from icl.tasks.base import Pool
from icl.types import Example, Query, Scored
from retrievers.base import Embedder, Resources
from retrievers.cache import Embeddings, embeddings
from retrievers.embedders.encoder import Encoder
from retrievers.index import Allowed, Index
from retrievers.leaks import fair, too_few
from retrievers.vectors import Vectors

_INDEXES: "WeakKeyDictionary[Pool, dict[tuple[Embeddings, str, float], Index]]" = WeakKeyDictionary()
"""What was fitted on a pool that is still in use: cells that differ in seed or shots share it."""


@component("retriever", "knn")
@dataclass(frozen=True)
class KNN:
    """The pool's nearest neighbours of the query by picture, question or both (RICES)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True

    by: Literal["picture", "question", "both"] = "picture"  # what is compared
    weight: Share = 0.5  # of the picture's cosine where by is 'both'
    embedder: Annotated[Embedder, Nested("embedder")] = field(default_factory=Encoder)  # what makes the vectors

    def __post_init__(self) -> None:
        reads = getattr(self.embedder, "reads", frozenset({"picture", "text"}))
        if self.by != "picture" and "text" not in reads:
            raise ConfigError(
                f"retriever 'knn': by is '{self.by}', and its embedder {self.embedder!r} reads pictures only. "
                f"Use by: picture, or an embedder with a text tower (encoder)."
            )

    def fit(self, pool: Pool, resources: Resources) -> "FittedKNN":
        source = embeddings(self.embedder, resources.cache)
        indexes = _INDEXES.setdefault(pool, {})
        key = (source, self.by, self.weight)
        if key not in indexes:
            indexes[key] = Index(self.vectors(pool.examples, source))
        return FittedKNN(self, pool, source, indexes[key])

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches, before each pool is fitted."""
        self.vectors(items, embeddings(self.embedder, resources.cache))

    def vectors(self, items: Sequence[Query | Example], source: Embeddings) -> Vectors:
        """[N, D]: a dot product of two rows is their score."""
        if self.by == "picture":
            return source.pictures(items)
        questions = source.texts([item.question for item in items])
        if self.by == "question":
            return questions
        pictures = source.pictures(items)
        return np.hstack([pictures * np.float32(self.weight**0.5), questions * np.float32((1 - self.weight) ** 0.5)])


@dataclass(frozen=True)
class FittedKNN:
    """An index over one pool."""

    retriever: KNN
    pool: Pool
    source: Embeddings
    index: Index

    def retrieve(self, queries: Sequence[Query], k: int) -> list[tuple[Scored, ...]]:
        if not queries or k == 0:
            return [() for _ in queries]
        found = self.index.nearest(self.retriever.vectors(queries, self.source), k, [self._allowed(q) for q in queries])
        return [self._given(query, rows, k) for query, rows in zip(queries, found, strict=True)]

    def _allowed(self, query: Query) -> Allowed:
        examples, allowed = self.pool.examples, fair(query)
        return lambda row: allowed(examples[row])

    def _given(self, query: Query, rows: list[tuple[int, float]], k: int) -> tuple[Scored, ...]:
        if len(rows) < k:
            raise too_few(self.pool, query, k)
        return tuple(Scored(self.pool.examples[row].id, round(score, 6)) for row, score in rows)
