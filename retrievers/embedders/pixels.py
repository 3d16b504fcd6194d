"""Raw pixels: the image as a small square, read as one vector; a baseline for encoders.

Values are from -1 to 1. The last entry is a constant, so a uniformly gray image is not the zero vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from icl.errors import PlanError
from icl.images import Image
from icl.registry import component
from icl.types import Example, Query
from retrievers.base import Vectors, all_images, mean_per_item, normalize_rows


@component("embedder", "pixels")
@dataclass(frozen=True)
class Pixels:
    """The raw pixels of the downscaled image; images only, without weights."""

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
        from PIL import Image as PILImage

        small = image.open().resize((self.size, self.size), PILImage.Resampling.BOX)
        values = np.asarray(small, dtype=np.float32).reshape(-1) / 127.5 - 1
        return np.append(values, np.float32(1))
