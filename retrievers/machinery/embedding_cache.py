"""The embedding cache: every image and text is embedded once, in memory, on disk and across processes.

The key of a vector is its content (the digest of the image, or the text) and the digest of the embedder (weights and
settings), so a vector is never stale. `EmbeddingCache.count` has the number of computed vectors.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

from icl.cache_folder import cache_folder
from icl.errors import ConfigError, ModelError
from icl.images import Image
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item
from retrievers.machinery.vector_store import VectorStore, warn

T = TypeVar("T")

CHUNK = 512
"""Items per write. A killed process loses at most this many vectors."""


class EmbeddingCache:
    """An embedder with a cache. Get it from `shared_cache`, so that a process has one cache per embedder."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.embedder = embedder
        self.count = {"image": 0, "text": 0, "patches": 0, "words": 0}
        name = sha256(embedder.digest.encode()).hexdigest()[:24]
        self._stores = {kind: VectorStore(folder / "embeddings" / name / kind, embedder.digest) for kind in self.count}

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        """The mean vector of each item's images, [N, D], unit rows. Raises DataError if an item has no image."""
        images = all_images(items)
        by_key = {bytes.fromhex(image.digest): image for image in images}
        rows = self._vectors("image", [bytes.fromhex(p.digest) for p in images], by_key, self._embed_images)
        return mean_per_item(items, rows)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The vector of each text, [N, D], unit rows."""
        by_key = {sha256(text.encode()).digest(): text for text in texts}
        return self._vectors(
            "text", [sha256(text.encode()).digest() for text in texts], by_key, self.embedder.embed_texts
        )

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """Vectors of the images' patches, [N, P, D]. Raises ConfigError if the embedder has no patches."""
        embed = _flatten(self.embedder, "patches")
        by_key = {bytes.fromhex(image.digest): image for image in images}
        return _unflatten(self._vectors("patches", [bytes.fromhex(p.digest) for p in images], by_key, embed))

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts' tokens, [N, W, D]; zeros are padding. Raises ConfigError if there are none."""
        embed = _flatten(self.embedder, "words")
        by_key = {sha256(text.encode()).digest(): text for text in texts}
        return _unflatten(self._vectors("words", [sha256(text.encode()).digest() for text in texts], by_key, embed))

    def _embed_images(self, images: Sequence[Image]) -> Vectors:
        return self.embedder.embed_images([Query(p.digest, (p,), "") for p in images])

    def _vectors(
        self, kind: str, keys: list[bytes], by_key: dict[bytes, T], embed: Callable[[Sequence[T]], Vectors]
    ) -> Vectors:
        store = self._stores[kind]
        if store.missing(keys):
            self._fill(kind, store, by_key, embed)
        return store.gather(keys)

    def _fill(
        self, kind: str, store: VectorStore, by_key: dict[bytes, T], embed: Callable[[Sequence[T]], Vectors]
    ) -> None:
        with _exclusive(store, by_key):
            missing = store.missing(by_key)
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                vectors = np.ascontiguousarray(embed([by_key[key] for key in chunk]), dtype=np.float32)
                if vectors.ndim != 2 or len(vectors) != len(chunk) or not np.isfinite(vectors).all():
                    raise ModelError(
                        f"embedder {self.embedder!r} gave an array of shape {vectors.shape} for {len(chunk)} {kind}s, "
                        f"or numbers that are not finite. It must give one finite row each."
                    )
                store.add(chunk, vectors)
                self.count[kind] += len(chunk)
                _EMBEDDED[kind] += len(chunk)


@contextmanager
def _exclusive(store: VectorStore, keys: Iterable[bytes]) -> Iterator[None]:
    """Lock these keys against other processes. If no lock file can be written, warn and go on."""
    from filelock import FileLock

    try:
        lock = FileLock(store.lock(keys))
        lock.acquire()
    except OSError as error:
        warn(store.folder, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _flatten(embedder: Embedder, what: str) -> Callable[[Sequence[T]], Vectors]:
    """A function that embeds each item as one row: the length of a part, then all parts."""
    if not hasattr(embedder, f"embed_{what}"):
        raise ConfigError(f"embedder {embedder!r} gives no vectors of {what}. Use the embedder 'encoder'.")

    def embed(items: Sequence[T]) -> Vectors:
        parts = getattr(embedder, f"embed_{what}")(items)
        return np.hstack([np.full((len(parts), 1), parts.shape[2], np.float32), parts.reshape(len(parts), -1)])

    return embed


def _unflatten(rows: Vectors) -> Vectors:
    return rows[:, 1:].reshape(len(rows), -1, int(rows[0, 0])) if len(rows) else np.zeros((0, 0, 0), np.float32)


_EMBEDDED = {"image": 0, "text": 0, "patches": 0, "words": 0}
_SHARED: dict[tuple[str, Path], EmbeddingCache] = {}
_GUARD = threading.Lock()


def shared_cache(embedder: Embedder, cache: str | None = None) -> EmbeddingCache:
    """The cache of an embedder in this process. Retrievers with equal embedders share it."""
    key = (embedder.digest, cache_folder(cache))
    with _GUARD:
        if key not in _SHARED:
            _SHARED[key] = EmbeddingCache(embedder, key[1])
        return _SHARED[key]


def num_embedded() -> dict[str, int]:
    """The number of vectors that this process computed, for all embedders: {'image': n, 'text': n, ...}."""
    return dict(_EMBEDDED)


def forget() -> None:
    """Delete all vectors from memory. The files stay."""
    with _GUARD:
        _SHARED.clear()
