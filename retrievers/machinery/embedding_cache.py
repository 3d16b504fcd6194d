"""The embedding cache: every image and text is embedded once, in memory, on disk and across processes.

The key of a vector is its content (the digest of the image, or the text) and the digest of the embedder (weights,
settings, and the code of an embedder of your own), so a vector is never stale. `EmbeddingCache.count` has the number
of computed vectors.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from icl.cache_folder import cache_folder
from icl.component_json import describe
from icl.errors import ConfigError, ModelError
from icl.images import Image
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.embedder_device import placements
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item
from retrievers.machinery.vector_store import FORMAT, VectorStore, warn

T = TypeVar("T")

CHUNK = 512
"""Items per write. A killed process loses at most this many vectors."""


class EmbeddingCache:
    """An embedder with a cache. Get it from `shared_cache`, so that a process has one cache per embedder."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.embedder = embedder
        self.count = {"image": 0, "text": 0, "patches": 0, "words": 0}
        identity = embedder_identity(embedder)
        name = sha256(f"{FORMAT} {identity}".encode()).hexdigest()[:24]
        self._stores = {kind: VectorStore(folder / "embeddings" / name / kind, identity) for kind in self.count}

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        """The mean vector of each item's images, [N, D], unit rows. Raises DataError if an item has no image."""
        return mean_per_item(items, self._vectors("image", all_images(items), _image_key, self._embed_images))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """The vector of each text, [N, D], unit rows."""
        return self._vectors("text", texts, _text_key, self.embedder.embed_texts)

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """Vectors of the images' patches, [N, P, D]. Raises ConfigError if the embedder has no patches."""
        return _unflatten(self._vectors("patches", images, _image_key, _flatten(self.embedder, "patches")))

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts' tokens, [N, W, D]; zeros are padding. Raises ConfigError if there are none."""
        return _unflatten(self._vectors("words", texts, _text_key, _flatten(self.embedder, "words")))

    def _embed_images(self, images: Sequence[Image]) -> Vectors:
        return self.embedder.embed_images([Query(image.digest, (image,), "") for image in images])

    def _vectors(
        self, kind: str, contents: Sequence[T], key_of: Callable[[T], bytes], embed: Callable[[Sequence[T]], Vectors]
    ) -> Vectors:
        store, keys = self._stores[kind], [key_of(content) for content in contents]
        if store.missing(keys):
            self._fill(kind, store, dict(zip(keys, contents, strict=True)), embed)
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
                        f"embedder {self.embedder!r} returned an array of shape {vectors.shape} for {len(chunk)} "
                        f"{kind}s, "
                        f"or numbers that are not finite. It must give one finite row each."
                    )
                store.add(chunk, vectors)
                self.count[kind] += len(chunk)
                _EMBEDDED[kind] += len(chunk)


def embedder_identity(embedder: Embedder) -> str:
    """What decides the vectors of an embedder.

    Its digest, the digests of the code of each class in it that is not the toolkit's, and device kind, dtype and TF32
    where they are not those of float32 on a CPU.
    """
    places = [placement.key for placement in placements(embedder) if placement.key]
    return " ".join([embedder.digest, *_code_digests(describe(embedder)), *places])


def _code_digests(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("code"), str):
            yield node["code"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _code_digests(item)


def _image_key(image: Image) -> bytes:
    return bytes.fromhex(image.digest)


def _text_key(text: str) -> bytes:
    return sha256(text.encode()).digest()


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
    key = (embedder_identity(embedder), cache_folder(cache))
    with _GUARD:
        if key not in _SHARED:
            _SHARED[key] = EmbeddingCache(embedder, key[1])
        return _SHARED[key]


def num_embedded() -> dict[str, int]:
    """The number of vectors that this process computed, for all embedders: {'image': n, 'text': n, ...}."""
    return dict(_EMBEDDED)


def clear_memory() -> None:
    """Delete all vectors from memory. The files stay."""
    with _GUARD:
        _SHARED.clear()
