"""Embedders made of others: two spaces side by side, a mean, vectors without their mean, or moved texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np

from icl import (
    ConfigError,
    Embedder,
    Example,
    Fraction,
    NestedComponent,
    NonNegative,
    PlanError,
    Pool,
    Query,
    StreamKey,
    component,
)
from retrievers import (
    EmbeddingSource,
    PoolFitted,
    TextField,
    Vectors,
    demo_text,
    normalize_rows,
    open_source,
    reads,
)


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


def shifted_texts(texts: Vectors, shift: Any, noise: Any) -> Vectors:
    """Unit rows of texts + shift + noise: [N, D], [D], [N, D] -> [N, D]."""
    return normalize_rows(np.asarray(texts + shift + noise, dtype=np.float32))


@component("embedder", "close")
@dataclass(frozen=True, kw_only=True)
class Close(PoolFitted):
    """Another embedder; its text vectors move toward the pool's images and get noise.

    Texts that stand in for images: noise and mean shift (CLOSE, Gu et al., ICCV 2023; C3, Zhang et al., ICLR 2024).

        text vector = unit(t + scale (mean of images - mean of texts) + N(0, sd^2))

    Image vectors stay. The papers train on such texts in place of images, so use it for the text shots of `icl analyze
    RUN probe`, and not for retrieval: noise is for training only. `scale: 1` moves the texts' centroid to the images'
    centroid; sd .04 to .12 are the values of C3. The means are of the pool's images, and of its distinct texts of the
    kind `text`. The noise of a text depends on its words and `seed`. Controls: `scale: 0`, `sd: 0`, and `centered`.

    Differs from the released code in the noise, which is drawn once for each text (there again in each step of
    training, as the intervention `embedding_prefix` does).
    """

    of: Annotated[Embedder, NestedComponent("embedder")]  # the embedder whose texts are changed
    scale: NonNegative = 1.0  # share of the difference of the centroids that is added; 0: no shift
    sd: NonNegative = 0.0  # standard deviation of the noise in each dimension
    text: TextField = "answer"  # which texts of the pool have the mean that is moved
    seed: int = 0  # random seed of the noise

    @property
    def digest(self) -> str:
        return f"close-1({self.of.digest},{self.scale!r},{self.sd!r},{self.text},{self.seed})"

    def open(self, cache: str | None, pool: Pool) -> EmbeddingSource:
        return _CloseSource(self, open_source(self.of, cache, pool), pool.examples)


@dataclass(frozen=True)
class _CloseSource:
    close: Close
    source: EmbeddingSource
    examples: tuple[Example, ...]

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.source.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        vectors = self.source.embed_texts(texts)
        noise = [StreamKey(self.close.seed, text).numpy("close").normal(size=vectors.shape[1]) for text in texts]
        shift = self.shift if self.close.scale else np.zeros(vectors.shape[1])
        return shifted_texts(vectors, self.close.scale * shift, self.close.sd * np.array(noise))

    @cached_property
    def shift(self) -> Any:
        """The mean of the images minus the mean of the texts. Raises PlanError without both."""
        images = [example for example in self.examples if example.images]
        texts = list(dict.fromkeys(demo_text(example, self.close.text) for example in self.examples))
        if not images or not texts:
            raise PlanError("embedder 'close': the pool has no images or no texts to move between. Set scale: 0.")
        return self.source.embed_images(images).mean(axis=0) - self.source.embed_texts(texts).mean(axis=0)
