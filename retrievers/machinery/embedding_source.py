"""The sources of vectors: an embedder with its cache, or a transform of other sources.

A transform of an embedder (such as `centered` or `mix`) is an embedder with one more method:

    open(cache, pool) -> EmbeddingSource

The cache on disk has the vectors of the embedders inside, so a transform needs no second pass through an encoder. A
fitted transform (means, a head) uses only the pool.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from icl.cache_folder import cache_folder
from icl.errors import ConfigError, PlanError
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.embedding_cache import shared_cache
from retrievers.machinery.vector_math import Vectors


class EmbeddingSource(Protocol):
    """A source of unit vectors for items and texts, such as `EmbeddingCache`."""

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors: ...

    def embed_texts(self, texts: Sequence[str]) -> Vectors: ...


def open_source(embedder: Embedder, cache: str | None, pool: Pool) -> EmbeddingSource:
    """Open the source of an embedder for retrieval from a pool."""
    opened = getattr(embedder, "open", None)
    source: EmbeddingSource = shared_cache(embedder, cache) if opened is None else opened(cache, pool)
    return source


def source_key(embedder: Embedder, cache: str | None) -> tuple[Any, ...]:
    """A key of sources: on one pool, equal keys mean equal sources."""
    return embedder.digest, cache_folder(cache)


def reads(embedder: Embedder) -> frozenset[str]:
    """The modalities that an embedder reads: 'image', 'text' or both. Both is the default."""
    return frozenset(getattr(embedder, "reads", ("image", "text")))


MODALITIES_OF: Mapping[str, frozenset[str]] = {
    "image": frozenset({"image"}),
    "question": frozenset({"text"}),
    "both": frozenset({"image", "text"}),
}
"""The modalities that the embedder must read, for each value of `by`."""


def check_modalities(embedder: Embedder, required: frozenset[str], error_prefix: str = "") -> None:
    """Raises ConfigError if the embedder does not read all required modalities.

    error_prefix: the settings that the error names first.
    """
    if missing := required - reads(embedder):
        only = "images" if "text" in missing else "texts"
        raise ConfigError(
            f"{error_prefix}its embedder {embedder!r} reads {only} only. "
            f"Use an embedder that reads {' and '.join(sorted(required))} (encoder, efficientnet_minilm, paired)."
        )


class PoolFitted:
    """Base of embedders that change the vectors of another embedder `of` by those of a pool."""

    of: Embedder

    @property
    def reads(self) -> frozenset[str]:
        return reads(self.of)

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        raise self._no_pool()

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise self._no_pool()

    def _no_pool(self) -> PlanError:
        name = type(self).component[1]  # type: ignore[attr-defined]
        return PlanError(f"embedder '{name}' is fitted on a pool: use it inside a retriever, not by itself.")
