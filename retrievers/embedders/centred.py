"""The modality gap closed by centring (C3, Zhang et al., ICLR 2024, without its training noise).

    vector = unit(unit(v) - mean of its own modality over the pool)

Means are of normalised vectors, and of the pool alone: its pictures, and the texts that `text` names, each text once.
Centring takes away the gap between the centroids, not the difference of the distributions. One vector less its
mean is nothing: fewer than two different ones are an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from icl.errors import PlanError
from icl.registry import Nested, component
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.demo_text import Said, said
from retrievers.machinery.embedding_source import Source, no_pool, reads, source_of
from retrievers.machinery.vector_math import Vectors, unit


@component("embedder", "centred")
@dataclass(frozen=True, kw_only=True)
class Centred:
    """Another embedder, less the mean of each modality over the pool (C3)."""

    of: Annotated[Embedder, Nested("embedder")]  # the embedder whose vectors are centred
    text: Said = "question"  # the pool's texts whose mean is taken; i2t compares answers

    @property
    def reads(self) -> frozenset[str]:
        return reads(self.of)

    @property
    def digest(self) -> str:
        return f"centred-1({self.of.digest},{self.text})"

    def pictures(self, items: Sequence[Query | Example]) -> Vectors:
        raise no_pool("centred")

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise no_pool("centred")

    def opened(self, cache: str | None, pool: Pool) -> Source:
        return _Opened(source_of(self.of, cache, pool), pool.examples, self.text)


@dataclass(frozen=True)
class _Opened:
    source: Source
    examples: tuple[Example, ...]
    text: Said

    def pictures(self, items: Sequence[Query | Example]) -> Vectors:
        return unit(self.source.pictures(items) - self.picture_mean)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return unit(self.source.texts(texts) - self.text_mean)

    @cached_property
    def picture_mean(self) -> Vectors:
        return _mean(self.source.pictures([example for example in self.examples if example.pictures]), "pictures")

    @cached_property
    def text_mean(self) -> Vectors:
        texts = list(dict.fromkeys(said(example, self.text) for example in self.examples))
        return _mean(self.source.texts(texts), f"{self.text}s" if self.text != "both" else "texts")


def _mean(rows: Vectors, what: str) -> Vectors:
    if len(np.unique(np.round(rows, 6), axis=0)) < 2:
        raise PlanError(
            f"embedder 'centred': the pool has fewer than two different {what}, and one less its mean is nothing. "
            f"Use the embedder inside without centring."
        )
    return np.asarray(rows.mean(axis=0), dtype=np.float32)
