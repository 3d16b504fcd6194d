"""Content without arrangement."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import PatchesPerSide, component
from icl.streams import StreamKey

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "shuffled_patches")
@dataclass(frozen=True)
class ShuffledPatches(Edit):
    """The image cut into `grid` x `grid` patches that change places: content without arrangement.

    The order is drawn once for each prompt. If `grid` does not divide a side, its last pixels at the right or bottom
    stay in place.
    """

    grid: PatchesPerSide = 4  # patches along a side
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "ShuffledPatches":
        return replace(self, stream=key.number(f"patches/{place}", 63))

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        import numpy as np

        shuffled = image.copy()
        wide, high = image.width // self.grid, image.height // self.grid
        corners = [(x * wide, y * high) for y in range(self.grid) for x in range(self.grid)]
        order = np.random.default_rng(self.stream).permutation(len(corners)).tolist()
        for (x, y), source in zip(corners, order, strict=True):
            left, top = corners[source]
            shuffled.paste(image.crop((left, top, left + wide, top + high)), (x, y))
        return shuffled
