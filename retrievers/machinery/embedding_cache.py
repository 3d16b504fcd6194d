"""Every image and every text is embedded once: in memory, on disk, and across processes.

The key of a vector is what it embeds (the image's digest, the text) together with the digest of the embedder (weights
and settings), so nothing stale can be served. `Embeddings.count` says what was really computed.
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
"""Items between two writes: what a killed process loses at most."""


class EmbeddingCache:
    """An embedder behind its cache: the same two calls. Have it from `embeddings`, so that a process has one."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.embedder = embedder
        self.count = {"image": 0, "text": 0, "patches": 0, "words": 0}
        name = sha256(embedder.digest.encode()).hexdigest()[:24]
        self._shards = {kind: VectorStore(folder / "embeddings" / name / kind, embedder.digest) for kind in self.count}

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        """[N, D], a unit row an item: the mean over its images. Raises DataError where an item has none."""
        images = all_images(items)
        by_key = {bytes.fromhex(image.digest): image for image in images}
        rows = self._vectors("image", [bytes.fromhex(p.digest) for p in images], by_key, self._embed_images)
        return mean_per_item(items, rows)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """[N, D], a unit row a text."""
        by_key = {sha256(text.encode()).digest(): text for text in texts}
        return self._vectors(
            "text", [sha256(text.encode()).digest() for text in texts], by_key, self.embedder.embed_texts
        )

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """[N, P, D] of the images' patches. Raises ConfigError where the embedder gives none."""
        embed = _flat(self.embedder, "patches")
        by_key = {bytes.fromhex(image.digest): image for image in images}
        return _parted(self._vectors("patches", [bytes.fromhex(p.digest) for p in images], by_key, embed))

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        """[N, W, D] of the texts' tokens; rows of zeros are padding. Raises ConfigError as `patches`."""
        embed = _flat(self.embedder, "words")
        by_key = {sha256(text.encode()).digest(): text for text in texts}
        return _parted(self._vectors("words", [sha256(text.encode()).digest() for text in texts], by_key, embed))

    def _embed_images(self, images: Sequence[Image]) -> Vectors:
        return self.embedder.embed_images([Query(p.digest, (p,), "") for p in images])

    def _vectors(
        self, kind: str, keys: list[bytes], by_key: dict[bytes, T], embed: Callable[[Sequence[T]], Vectors]
    ) -> Vectors:
        shards = self._shards[kind]
        if shards.missing(keys):
            self._fill(kind, shards, by_key, embed)
        return shards.gather(keys)

    def _fill(
        self, kind: str, shards: VectorStore, by_key: dict[bytes, T], embed: Callable[[Sequence[T]], Vectors]
    ) -> None:
        with _alone(shards, by_key):
            missing = shards.missing(by_key)
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                vectors = np.ascontiguousarray(embed([by_key[key] for key in chunk]), dtype=np.float32)
                if vectors.ndim != 2 or len(vectors) != len(chunk) or not np.isfinite(vectors).all():
                    raise ModelError(
                        f"embedder {self.embedder!r} gave an array of shape {vectors.shape} for {len(chunk)} {kind}s, "
                        f"or numbers that are not finite. It must give one finite row each."
                    )
                shards.add(chunk, vectors)
                self.count[kind] += len(chunk)
                _EMBEDDED[kind] += len(chunk)


@contextmanager
def _alone(shards: VectorStore, keys: Iterable[bytes]) -> Iterator[None]:
    """No other process does the same piece of work meanwhile, where there can be a lock."""
    from filelock import FileLock

    try:
        lock = FileLock(shards.lock(keys))
        lock.acquire()
    except OSError as error:
        warn(shards.folder, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _flat(embedder: Embedder, what: str) -> Callable[[Sequence[T]], Vectors]:
    """The parts of an item as one row, behind the number of entries of a part."""
    if not hasattr(embedder, f"embed_{what}"):
        raise ConfigError(f"embedder {embedder!r} gives no vectors of {what}. Use the embedder 'encoder'.")

    def embed(items: Sequence[T]) -> Vectors:
        parts = getattr(embedder, f"embed_{what}")(items)
        return np.hstack([np.full((len(parts), 1), parts.shape[2], np.float32), parts.reshape(len(parts), -1)])

    return embed


def _parted(rows: Vectors) -> Vectors:
    return rows[:, 1:].reshape(len(rows), -1, int(rows[0, 0])) if len(rows) else np.zeros((0, 0, 0), np.float32)


_EMBEDDED = {"image": 0, "text": 0, "patches": 0, "words": 0}
_SHARED: dict[tuple[str, Path], EmbeddingCache] = {}
_GUARD = threading.Lock()


def shared_cache(embedder: Embedder, cache: str | None = None) -> EmbeddingCache:
    """The cached embedder of this process; every retriever that names an equal embedder shares it."""
    key = (embedder.digest, cache_folder(cache))
    with _GUARD:
        if key not in _SHARED:
            _SHARED[key] = EmbeddingCache(embedder, key[1])
        return _SHARED[key]


def num_embedded() -> dict[str, int]:
    """What this process really embedded so far, over all embedders: {'image': n, 'text': n, ...}."""
    return dict(_EMBEDDED)


def forget() -> None:
    """Let go of everything in memory; what is on disk stays."""
    with _GUARD:
        _SHARED.clear()
