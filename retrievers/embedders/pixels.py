"""Raw pixels: the picture shrunk to a small square and read as one vector, the baseline below every encoder.

Values run from -1 to 1, and a constant last entry keeps a uniformly grey picture from being the zero vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from icl.errors import PlanError
from icl.images import Picture
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.vector_math import Vectors, per_item, shown, unit


@component("embedder", "pixels")
@dataclass(frozen=True)
class Pixels:
    """Shrunken raw pixels: no weights, where which colour is."""

    reads: ClassVar[frozenset[str]] = frozenset({"picture"})

    size: Annotated[int, Ge(1), Le(64)] = 16  # side in pixels of the square; the vector has 3 size^2 + 1 entries

    @property
    def digest(self) -> str:
        return f"pixels-1-{self.size}"

    def pictures(self, items: Sequence[Query | Example]) -> Vectors:
        return per_item(items, unit(np.stack([self._one(picture) for picture in shown(items)])))

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError("embedder 'pixels' reads pictures only. For questions, use the embedder 'encoder'.")

    def _one(self, picture: Picture) -> Vectors:
        from PIL import Image as PILImage

        small = picture.open().resize((self.size, self.size), PILImage.Resampling.BOX)
        values = np.asarray(small, dtype=np.float32).reshape(-1) / 127.5 - 1
        return np.append(values, np.float32(1))
