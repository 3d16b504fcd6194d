"""Where a retriever's vectors come from: an embedder behind its cache, or a transform of such sources.

A transform of an embedder (a mean taken away, two encoders mixed) is an embedder with one more method:

    open(cache, pool) -> EmbeddingSource

What is cached on disk are the vectors of the embedders inside, so that a transform costs no second pass through an
encoder, and one that is fitted (means, a head) sees the pool and nothing else.
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
    """Unit rows for items and texts; `retrievers.machinery.embedding_cache.Embeddings` is one."""

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors: ...

    def embed_texts(self, texts: Sequence[str]) -> Vectors: ...


def open_source(embedder: Embedder, cache: str | None, pool: Pool) -> EmbeddingSource:
    """The embedder's source for retrieval from a pool."""
    opened = getattr(embedder, "open", None)
    source: EmbeddingSource = shared_cache(embedder, cache) if opened is None else opened(cache, pool)
    return source


def source_key(embedder: Embedder, cache: str | None) -> tuple[Any, ...]:
    """Equal keys, equal sources on one pool."""
    return embedder.digest, cache_folder(cache)


def reads(embedder: Embedder) -> frozenset[str]:
    """What an embedder reads: 'image', 'text' or both. One that does not say reads both."""
    return frozenset(getattr(embedder, "reads", ("image", "text")))


READ: Mapping[str, frozenset[str]] = {
    "image": frozenset({"image"}),
    "question": frozenset({"text"}),
    "both": frozenset({"image", "text"}),
}
"""What is compared (`by`) -> what the embedder has to read."""


def check_modalities(embedder: Embedder, wanted: frozenset[str], told: str = "") -> None:
    """Raises ConfigError where the embedder does not read all of it. told: what it adds about the settings."""
    if lacking := wanted - reads(embedder):
        only = "images" if "text" in lacking else "texts"
        raise ConfigError(
            f"{told}its embedder {embedder!r} reads {only} only. "
            f"Use an embedder that reads {' and '.join(sorted(wanted))} (encoder, paired)."
        )


def no_pool(name: str) -> PlanError:
    """The error of a transform that is asked for vectors before it saw a pool."""
    return PlanError(f"embedder '{name}' is fitted on a pool: use it inside a retriever, not by itself.")
