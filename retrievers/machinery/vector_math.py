"""Vector arithmetic of embedders and retrievers. All vectors are rows in float32."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icl.errors import DataError
from icl.images import Image
from icl.types import Example, Query

Vectors = NDArray[np.float32]


def normalize_rows(vectors: NDArray[np.floating]) -> Vectors:
    """Divide each row by its L2 norm. A zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def stack_batches(batches: Sequence[NDArray[np.floating]]) -> Vectors:
    """The unit rows of all batches of an encoder, [N, D]; [0, 0] without batches."""
    return normalize_rows(np.concatenate(batches)) if batches else np.zeros((0, 0), np.float32)


def all_images(items: Sequence[Query | Example]) -> list[Image]:
    """All images of the items, in order. Raises DataError if an item has no image."""
    without = next((item for item in items if not item.images), None)
    if without is not None:
        raise DataError(f"'{without.id}' has no image to embed. Retrieve by question, or give it an image.")
    return [image for item in items for image in item.images]


def mean_per_item(items: Sequence[Query | Example], rows: Vectors) -> Vectors:
    """The mean vector of each item, normalized: [P, D], one row per image in the order of `all_images` -> [N, D]."""
    if len(rows) == len(items):
        return rows
    counts = [len(item.images) for item in items]
    starts = np.cumsum([0, *counts[:-1]])
    return normalize_rows(np.add.reduceat(rows, starts, axis=0))
