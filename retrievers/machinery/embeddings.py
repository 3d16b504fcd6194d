"""Where the vectors of images and texts come from: an embedder with its cache, or a transform of other sources.

A transform of an embedder (such as `centered` or `mix`) is an embedder with one more method:

    open(cache, pool) -> EmbeddingSource

The cache on disk has the vectors of the embedders inside, so a transform needs no second pass through an encoder. A
fitted transform (means, a head) uses only the pool.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from icl import ConfigError, Example, Image, ModelError, PlanError, Pool, Query, cache_folder, filelock
from icl.component_json import describe
from retrievers.base import Embedder, Vectors, all_images, mean_per_item
from retrievers.machinery.embedding_models import placements
from retrievers.machinery.vector_store import FORMAT, VectorStore, warn


class EmbeddingSource(Protocol):
    """A source of unit vectors for items and texts, such as `EmbeddingCache`."""

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors: ...

    def embed_texts(self, texts: Sequence[str]) -> Vectors: ...


def open_source(embedder: Embedder, cache: str | None, pool: Pool) -> EmbeddingSource:
    """Open the source of an embedder for retrieval from a pool."""
    opened = getattr(embedder, "open", None)
    source: EmbeddingSource = shared_cache(embedder, cache) if opened is None else opened(cache, pool)
    return source


TextField = Literal["answer", "question", "both"]


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
    """Base of embedders that change the vectors of another embedder `of` with the help of a pool's vectors."""

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


# The embedding cache: every image and text is embedded once, in memory, on disk and across processes.
#
# The key of a vector is its content (the digest of the image, or the text) and the digest of the embedder (weights,
# settings, and the code of an embedder of your own), so a vector is never stale. `EmbeddingCache.count` has the
# number of computed vectors.


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
    where they differ from float32 on a CPU.
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
    try:
        lock = filelock.FileLock(store.lock(keys))
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


_WORD = re.compile(r"\w+")


def demo_text(example: Example, which: TextField) -> str:
    """The answer, the question, or the question followed by the answer."""
    return {
        "answer": example.answer,
        "question": example.question,
        "both": f"{example.question} {example.answer}",
    }[which]


def split_words(text: str) -> list[str]:
    """Lower-case word tokens in order, without a list of stop words."""
    return _WORD.findall(text.lower())
