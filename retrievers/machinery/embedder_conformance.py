"""The conformance check of embedders (`icl check embedder`).

    check_embedder(Mine(bins=4))

The rows are float32 with length 1, one for each item, and do not depend on the batch or the order of items. A modality
that the embedder does not read is an ICLError. Embedders that need a model are not covered.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from icl.errors import ICLError
from icl.tasks.base import Pool
from icl.testing.require import accepts_class
from retrievers.base import Embedder
from retrievers.machinery.conformance import sample_pool
from retrievers.machinery.embedding_source import open_source, reads

TEXTS = ("which red ?", "count the blue shape", "which red ?", "what")
UNIT, ORDER, BATCH = 1e-5, 1e-5, 1e-4  # tolerances: length, order of items, other batch


@accepts_class
def check_embedder(embedder: Embedder, pool: Pool | None = None) -> None:
    """Check that an embedder does what retrievers rely on. Every call has an empty cache.

    Args:
        pool: The pool whose images are embedded, and on which a transform is fitted. By default a small pool of
            generated images.

    Raises:
        AssertionError: A sentence that says what is wrong.
    """
    name, pool = type(embedder).__name__, pool or sample_pool()
    duplicate: Any = dataclasses.replace(embedder)  # type: ignore[type-var]
    assert embedder.digest == duplicate.digest, f"{name}.digest is not the same in another instance."
    assert isinstance(embedder.digest, str), f"{name}.digest is {embedder.digest!r}, not a text."
    unknown = reads(embedder) - {"image", "text"}
    assert not unknown, f"{name}.reads has {sorted(unknown)}; it may have image and text."
    assert reads(embedder), f"{name} reads neither images nor texts."
    if not hasattr(embedder, "open"):  # a transform embeds through its source only
        calls: list[tuple[str, Callable[[Any], Any], Sequence[Any]]] = [
            ("image", embedder.embed_images, pool.examples[:5]),
            ("text", embedder.embed_texts, TEXTS),
        ]
        for what, embed, items in calls:
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
    where = f"{name}, {what}s"
    if what not in reads(embedder):
        try:
            embed(items)
        except ICLError:
            return
        raise AssertionError(f"{where}: it declares that it does not read them, but returns vectors.")
    rows = embed(items)
    _check_shape(where, rows, len(items))
    assert np.isfinite(rows).all(), f"{where}: rows have numbers that are not finite."
    longest = float(np.abs(np.linalg.norm(rows, axis=1) - 1).max())
    assert longest <= UNIT, f"{where}: rows are not of length 1, by up to {longest:.2g}."
    reordered = embed(items[::-1])[::-1]
    assert np.allclose(reordered, rows, atol=ORDER), f"{where}: the order of items changes vectors."
    one_by_one = np.vstack([embed([item]) for item in items])
    assert np.allclose(one_by_one, rows, atol=BATCH), f"{where}: the other items of a batch change an item's vector."


def _check_shape(where: str, rows: Any, count: int) -> None:
    assert rows.dtype == np.float32, f"{where}: rows are {rows.dtype}, not float32."
    assert rows.shape == (count, rows.shape[-1]), f"{where}: shape {rows.shape} for {count} items."
