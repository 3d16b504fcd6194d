"""Embedders made of others: two spaces side by side, a mean, or vectors without their mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np

from icl import ConfigError, Embedder, Example, Fraction, NestedComponent, PlanError, Pool, Query, component
from retrievers import EmbeddingSource, PoolFitted, TextField, Vectors, demo_text, normalize_rows, open_source, reads


@component("embedder", "paired")
@dataclass(frozen=True, kw_only=True)
class Paired:
    """One embedder for images and another one for texts.

    Two encoders: one for images, one for texts.

    It serves retrieval by image, by question or by both (a mean of two cosines, each within one encoder). The encoders
    do not share a space, so a cosine of an image and a text has no meaning. It is an error if their dimensions differ.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    image: Annotated[Embedder, NestedComponent("embedder")]  # embeds the images
    text: Annotated[Embedder, NestedComponent("embedder")]  # embeds the texts

    def __post_init__(self) -> None:
        for what in ("image", "text"):
            if what not in reads(getattr(self, what)):
                raise ConfigError(f"{what} is {getattr(self, what)!r}, which does not read {what}s.")

    @property
    def digest(self) -> str:
        return f"paired-1({self.image.digest},{self.text.digest})"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.image.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.text.embed_texts(texts)

    def open(self, cache: str | None, pool: Pool) -> EmbeddingSource:
        return _PairedSource(open_source(self.image, cache, pool), open_source(self.text, cache, pool))


@dataclass(frozen=True)
class _PairedSource:
    image: EmbeddingSource
    text: EmbeddingSource

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.image.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.text.embed_texts(texts)


@component("embedder", "mix")
@dataclass(frozen=True, kw_only=True)
class Mix:
    """Two encoders; their cosines are averaged.

    Two encoders together (the mixture of features of Tong et al., CVPR 2024, at retrieval and without training).

        vector = [sqrt(w) unit(one), sqrt(1 - w) unit(other)],    so that    cosine = w cos_one + (1 - w) cos_other

    With concatenated raw vectors, the longer vector would decide.
    """

    one: Annotated[Embedder, NestedComponent("embedder")]  # the first encoder (CLIP, in the paper)
    other: Annotated[Embedder, NestedComponent("embedder")]  # the second (DINOv2, in the paper)
    weight: Fraction = 0.5  # of the first one's cosine

    def __post_init__(self) -> None:
        if not self.reads:
            raise ConfigError(f"{self.one!r} and {self.other!r} cannot embed the same kind of input.")

    @property
    def reads(self) -> frozenset[str]:
        return reads(self.one) & reads(self.other)

    @property
    def digest(self) -> str:
        return f"mix-1({self.one.digest},{self.other.digest},{self.weight})"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.concatenate(self.one.embed_images(items), self.other.embed_images(items))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.concatenate(self.one.embed_texts(texts), self.other.embed_texts(texts))

    def open(self, cache: str | None, pool: Pool) -> EmbeddingSource:
        return _MixSource(self, open_source(self.one, cache, pool), open_source(self.other, cache, pool))

    def concatenate(self, one: Vectors, other: Vectors) -> Vectors:
        """Weighted concatenation: [N, D1] and [N, D2] unit rows -> [N, D1 + D2] unit rows."""
        return np.hstack([one * np.float32(self.weight**0.5), other * np.float32((1 - self.weight) ** 0.5)])


@dataclass(frozen=True)
class _MixSource:
    mix: Mix
    one: EmbeddingSource
    other: EmbeddingSource

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.mix.concatenate(self.one.embed_images(items), self.other.embed_images(items))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.mix.concatenate(self.one.embed_texts(texts), self.other.embed_texts(texts))


@component("embedder", "centered")
@dataclass(frozen=True, kw_only=True)
class Centered(PoolFitted):
    """Another embedder minus the mean of each modality over the pool (C3).

    Centering, which closes the modality gap (C3, Zhang et al., ICLR 2024, without its training noise).

        vector = unit(unit(v) - mean of its own modality over the pool)

    The means are of normalized vectors of the pool: its images, and its distinct texts of the kind that the retriever
    compares (`i2t`: answers by default; others: questions), or of the kind `text`. Centering removes the gap between
    the centroids, not the difference of the distributions. A single vector minus its mean is zero, so fewer than two
    different vectors are an error.
    """

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
