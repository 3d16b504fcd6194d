"""Two encoders side by side: images through one, texts through another.

For retrieval by image, by question or by both (a mean of two cosines, each within one encoder). They do not share a
space, so comparing an image with a text through it means nothing, and is refused where their dimensions differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from icl.errors import ConfigError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.embedding_source import EmbeddingSource, open_source, reads
from retrievers.machinery.vector_math import Vectors


@component("embedder", "paired")
@dataclass(frozen=True, kw_only=True)
class Paired:
    """Images through one embedder, texts through another."""

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
        return _Opened(open_source(self.image, cache, pool), open_source(self.text, cache, pool))


@dataclass(frozen=True)
class _Opened:
    image: EmbeddingSource
    text: EmbeddingSource

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.image.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.text.embed_texts(texts)
