"""Two encoders together (the mixture of features of Tong et al., CVPR 2024, at retrieval and without training).

    vector = [sqrt(w) unit(one), sqrt(1 - w) unit(other)],    so that    cosine = w cos_one + (1 - w) cos_other

With concatenated raw vectors, the longer vector would decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from icl import ConfigError, Example, Fraction, NestedComponent, Pool, Query, component
from retrievers import Embedder, EmbeddingSource, Vectors, open_source, reads


@component("embedder", "mix")
@dataclass(frozen=True, kw_only=True)
class Mix:
    """Two encoders; their cosines are averaged."""

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
