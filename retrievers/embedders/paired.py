"""Two encoders: one for images, one for texts.

It serves retrieval by image, by question or by both (a mean of two cosines, each within one encoder). The encoders do
not share a space, so a cosine of an image and a text has no meaning. It is an error if their dimensions differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from icl import ConfigError, Example, NestedComponent, Pool, Query, component
from retrievers import Embedder, EmbeddingSource, Vectors, open_source, reads


@component("embedder", "paired")
@dataclass(frozen=True, kw_only=True)
class Paired:
    """One embedder for images and another one for texts."""

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
