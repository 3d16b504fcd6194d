"""What every embedder must do, as a call for our tests and for anyone's own (`icl check embedder`).

    check_embedder(Mine(bins=4))

Rows are float32 of length 1, as many as items, and the same whatever stands beside an item or before it. What an
embedder says that it does not read is refused with a sentence. One that needs a model is tried by its own tests.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from icl.errors import ICLError
from icl.tasks.base import Pool
from retrievers.base import Embedder
from retrievers.machinery.conformance import sample_pool
from retrievers.machinery.embedding_source import open_source, reads

TEXTS = ("which red ?", "count the blue shape", "which red ?", "what")
UNIT, ORDER, BATCH = 1e-5, 1e-5, 1e-4  # how far rows may be off: their length, in another order, in another batch


def check_embedder(embedder: Embedder, pool: Pool | None = None) -> None:
    """Raises AssertionError with a sentence where the embedder breaks a promise.

    pool: whose images it is tried on, and what it is fitted on where it is; one of made-up images where there is
    none. Every question is asked with an empty cache, so that the embedder answers and not what it said before.
    """
    name, pool = type(embedder).__name__, pool or sample_pool()
    again: Any = dataclasses.replace(embedder)  # type: ignore[type-var]
    assert embedder.digest == again.digest, f"{name}.digest is not the same in another instance."
    assert isinstance(embedder.digest, str), f"{name}.digest is {embedder.digest!r}, not a text."
    unknown = reads(embedder) - {"image", "text"}
    assert not unknown, f"{name}.reads has {sorted(unknown)}; it may have image and text."
    assert reads(embedder), f"{name} reads neither images nor texts."
    if not hasattr(embedder, "open"):  # what a transform of another gives comes of its source
        asked: list[tuple[str, Callable[[Any], Any], Sequence[Any]]] = [
            ("image", embedder.embed_images, pool.examples[:5]),
            ("text", embedder.embed_texts, TEXTS),
        ]
        for what, embed, items in asked:
            if what in reads(embedder):
                _check_shape(f"{name}, {what}s", embed(items), len(items))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        folders = (f"{root}/{number}" for number in count())

        def images(items: Any) -> Any:
            return open_source(embedder, next(folders), pool).embed_images(items)

        def texts(items: Any) -> Any:
            return open_source(embedder, next(folders), pool).embed_texts(items)

        _check(name, "image", images, pool.examples[:5], embedder)
        _check(name, "text", texts, TEXTS, embedder)


def _check(name: str, what: str, embed: Callable[[Any], Any], items: Sequence[Any], embedder: Embedder) -> None:
    told = f"{name}, {what}s"
    if what not in reads(embedder):
        try:
            embed(items)
        except ICLError:
            return
        raise AssertionError(f"{told}: it says that it does not read them, and gives vectors.")
    rows = embed(items)
    _check_shape(told, rows, len(items))
    assert np.isfinite(rows).all(), f"{told}: rows have numbers that are none."
    longest = float(np.abs(np.linalg.norm(rows, axis=1) - 1).max())
    assert longest <= UNIT, f"{told}: rows are not of length 1, by up to {longest:.2g}."
    turned = embed(items[::-1])[::-1]
    assert np.allclose(turned, rows, atol=ORDER), f"{told}: the order of items changes vectors."
    alone = np.vstack([embed([one]) for one in items])
    assert np.allclose(alone, rows, atol=BATCH), f"{told}: what stands beside an item in its batch changes its vector."


def _check_shape(told: str, rows: Any, count: int) -> None:
    assert rows.dtype == np.float32, f"{told}: rows are {rows.dtype}, not float32."
    assert rows.shape == (count, rows.shape[-1]), f"{told}: shape {rows.shape} for {count} items."
