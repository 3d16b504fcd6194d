"""Two encoders side by side: pictures through one, texts through another.

For retrieval by picture, by question or by both (a mean of two cosines, each within one encoder). They do not share a
space, so comparing a picture with a text through it means nothing, and is refused where their dimensions differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from icl.errors import ConfigError
from icl.registry import Nested, component
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.embedding_source import Source, reads, source_of
from retrievers.machinery.vector_math import Vectors


@component("embedder", "paired")
@dataclass(frozen=True, kw_only=True)
class Paired:
    """Pictures through one embedder, texts through another."""

    reads: ClassVar[frozenset[str]] = frozenset({"picture", "text"})

    picture: Annotated[Embedder, Nested("embedder")]  # embeds the pictures
    text: Annotated[Embedder, Nested("embedder")]  # embeds the texts

    def __post_init__(self) -> None:
        for what in ("picture", "text"):
            if what not in reads(getattr(self, what)):
                raise ConfigError(f"{what} is {getattr(self, what)!r}, which does not read {what}s.")

    @property
    def digest(self) -> str:
        return f"paired-1({self.picture.digest},{self.text.digest})"

    def pictures(self, items: Sequence[Query | Example]) -> Vectors:
        return self.picture.pictures(items)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return self.text.texts(texts)

    def opened(self, cache: str | None, pool: Pool) -> Source:
        return _Opened(source_of(self.picture, cache, pool), source_of(self.text, cache, pool))


@dataclass(frozen=True)
class _Opened:
    picture: Source
    text: Source

    def pictures(self, items: Sequence[Query | Example]) -> Vectors:
        return self.picture.pictures(items)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return self.text.texts(texts)
