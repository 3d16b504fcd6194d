"""Centering, which closes the modality gap (C3, Zhang et al., ICLR 2024, without its training noise).

    vector = unit(unit(v) - mean of its own modality over the pool)

The means are of normalized vectors of the pool: its images, and its distinct texts of the kind that the retriever
compares (`i2t`: answers by default; others: questions), or of the kind `text`. Centering
removes the gap between the centroids, not the difference of the distributions. A single vector minus its mean is zero,
so fewer than two different vectors are an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np

from icl import Example, NestedComponent, PlanError, Pool, Query, component
from retrievers import Embedder, EmbeddingSource, PoolFitted, TextField, Vectors, demo_text, normalize_rows, open_source


@component("embedder", "centered")
@dataclass(frozen=True, kw_only=True)
class Centered(PoolFitted):
    """Another embedder minus the mean of each modality over the pool (C3)."""

    of: Annotated[Embedder, NestedComponent("embedder")]  # the embedder whose vectors are centered
    text: TextField | None = None  # texts of the pool whose mean is subtracted; null: those that the retriever compares

    @property
    def digest(self) -> str:
        return f"centered-1({self.of.digest},{self.text or 'question'})"

    def for_text(self, text: TextField) -> "Centered":
        return replace(self, text=self.text or text)

    def open(self, cache: str | None, pool: Pool) -> EmbeddingSource:
        return _CenteredSource(open_source(self.of, cache, pool), pool.examples, self.text or "question")


@dataclass(frozen=True)
class _CenteredSource:
    source: EmbeddingSource
    examples: tuple[Example, ...]
    text: TextField

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return normalize_rows(self.source.embed_images(items) - self.image_mean)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return normalize_rows(self.source.embed_texts(texts) - self.text_mean)

    @cached_property
    def image_mean(self) -> Vectors:
        return _mean(self.source.embed_images([example for example in self.examples if example.images]), "images")

    @cached_property
    def text_mean(self) -> Vectors:
        texts = list(dict.fromkeys(demo_text(example, self.text) for example in self.examples))
        return _mean(self.source.embed_texts(texts), f"{self.text}s" if self.text != "both" else "texts")


def _mean(rows: Vectors, what: str) -> Vectors:
    if len(np.unique(np.round(rows, 6), axis=0)) < 2:
        raise PlanError(
            f"embedder 'centered': the pool has fewer than two different {what}, so centering makes "
            "all vectors zero. Use the inner embedder without centering, or center other texts (`text`)."
        )
    return np.asarray(rows.mean(axis=0), dtype=np.float32)
