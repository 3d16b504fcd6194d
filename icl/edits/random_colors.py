"""An image without content."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import PatchesPerSide, component
from icl.streams import StreamKey

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "random_colors")
@dataclass(frozen=True)
class RandomColors(Edit):
    """An image of soft random colors in the original's size, drawn once for each prompt."""

    patches: PatchesPerSide = 4  # random colors along a side, blended
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "RandomColors":
        return replace(self, stream=key.number(f"made up/{place}", 63))

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        import numpy as np
        from PIL import Image as PILImage

        draw = np.random.default_rng(self.stream)
        colors = draw.integers(0, 256, (self.patches, self.patches, 3), dtype=np.uint8)
        return PILImage.fromarray(colors).resize(image.size, PILImage.Resampling.BICUBIC)
