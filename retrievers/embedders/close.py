"""Texts that stand in for images: noise and mean shift (CLOSE, Gu et al., ICCV 2023; C3, Zhang et al., ICLR 2024).

    text vector = unit(t + scale (mean of images - mean of texts) + N(0, sd^2))

Image vectors stay. The papers train on such texts in place of images, so use it for the text shots of `icl analyze RUN
probe`, and not for retrieval: noise is for training only. `scale: 1` moves the texts' centroid to the images' centroid;
sd .04 to .12 are the values of C3. The means are of the pool's images, and of its distinct texts of the kind `text`.
The noise of a text depends on its words and `seed`. Controls: `scale: 0`, `sd: 0`, and `centered`.

Differs from the released code in the noise, which is drawn once for each text (there again in each step of training, as
the intervention `embedding_prefix` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from icl import Example, NestedComponent, NonNegative, PlanError, Pool, Query, StreamKey, component
from retrievers import Embedder, EmbeddingSource, PoolFitted, TextField, Vectors, demo_text, normalize_rows, open_source


def shifted_texts(texts: Vectors, shift: Any, noise: Any) -> Vectors:
    """Unit rows of texts + shift + noise: [N, D], [D], [N, D] -> [N, D]."""
    return normalize_rows(np.asarray(texts + shift + noise, dtype=np.float32))


@component("embedder", "close")
@dataclass(frozen=True, kw_only=True)
class Close(PoolFitted):
    """Another embedder; its text vectors move toward the pool's images and get noise."""

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
