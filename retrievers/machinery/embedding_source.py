"""The sources of vectors: an embedder with its cache, or a transform of other sources.

A transform of an embedder (such as `centered` or `mix`) is an embedder with one more method:

    open(cache, pool) -> EmbeddingSource

The cache on disk has the vectors of the embedders inside, so a transform needs no second pass through an encoder. A
fitted transform (means, a head) uses only the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from icl.cache_folder import cache_folder
from icl.errors import ConfigError, PlanError
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.demo_text import TextField
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


def for_text(embedder: Embedder, text: TextField) -> Embedder:
    """The embedder for a retriever that compares this text of the pool.

    An embedder that depends on it, such as `centered`, has a method `for_text`. Embedders inside others are found.
    """
    if hasattr(embedder, "for_text"):
        fitted: Embedder = embedder.for_text(text)
        return fitted
    component: Any = embedder
    inner = {f.name: getattr(component, f.name) for f in (fields(component) if is_dataclass(component) else ())}
    changes = {name: for_text(value, text) for name, value in inner.items() if hasattr(value, "embed_texts")}
    if all(changes[name] is inner[name] for name in changes):
        return embedder
    changed: Embedder = replace(component, **changes)
    return changed


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
