"""Embedders without a model: pixels and histograms of colors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from icl import PIL, DataError, Example, Image, PlanError, Query, component
from retrievers import Vectors, all_images, mean_per_item, normalize_rows


@component("embedder", "pixels")
@dataclass(frozen=True)
class Pixels:
    """The raw pixels of the downscaled image; images only, without weights.

    Raw pixels: the image as a small square, read as one vector; a baseline for encoders.

    Values are from -1 to 1. The last entry is a constant, so a uniformly gray image is not the zero vector.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    size: Annotated[int, Ge(1), Le(64)] = 16  # side of the square in pixels; the vector has 3 size^2 + 1 dimensions

    @property
    def digest(self) -> str:
        return f"pixels-1-{self.size}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return mean_per_item(items, normalize_rows(np.stack([self._embed_image(image) for image in all_images(items)])))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError("embedder 'pixels' reads images only. For questions, use the embedder 'encoder'.")

    def _embed_image(self, image: Image) -> Vectors:
        small = image.open().resize((self.size, self.size), PIL.Image.Resampling.BOX)
        values = np.asarray(small, dtype=np.float32).reshape(-1) / 127.5 - 1
        return np.append(values, np.float32(1))


GRID = 4
"""Cells along each side of an image in `embed_patches`."""


@component("embedder", "histogram")
@dataclass(frozen=True)
class Histogram:
    """The square roots of a color histogram; images only, without weights.

    Color histogram: a cheap image embedding, and a baseline for encoders.

    An entry is the square root of the share of pixels in one of bins^3 boxes of the RGB cube. The dot product of two
    images is the Bhattacharyya coefficient of their histograms (1: the same colors in the same amounts).
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    bins: Annotated[int, Ge(2), Le(16)] = 8  # boxes along each of red, green and blue; the vector has bins^3 dimensions

    @property
    def digest(self) -> str:
        return f"histogram-1-{self.bins}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return mean_per_item(items, np.stack([self._embed_image(image) for image in all_images(items)]))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError("embedder 'histogram' reads images only. For questions, use the embedder 'encoder'.")

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """Histograms of a grid of 4 by 4 cells, [N, 16, D]. Raises DataError for an image below 4 by 4 pixels."""
        return np.stack([self._cells(image) for image in images])

    def _cells(self, image: Image) -> Vectors:
        pixels = np.asarray(image.open(), dtype=np.int64)
        if min(pixels.shape[:2]) < GRID:
            raise DataError(f"{image!r} is smaller than {GRID} by {GRID} pixels: it has no patches.")
        cells = [cell for row in np.array_split(pixels, GRID) for cell in np.array_split(row, GRID, axis=1)]
        return np.stack([self._histogram(cell) for cell in cells])

    def _embed_image(self, image: Image) -> Vectors:
        return self._histogram(np.asarray(image.open(), dtype=np.int64))

    def _histogram(self, pixels: NDArray[np.int64]) -> Vectors:
        boxes = (pixels.reshape(-1, 3) * self.bins // 256) @ np.array([self.bins**2, self.bins, 1])
        counts = np.bincount(boxes, minlength=self.bins**3)
        return np.sqrt(counts / len(boxes)).astype(np.float32)
