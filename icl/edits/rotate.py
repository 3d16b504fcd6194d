"""A rotated image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "rotate")
@dataclass(frozen=True)
class Rotate(Edit):
    """The image rotated counterclockwise at its size, with gray corners."""

    degrees: float = 180.0  # counterclockwise

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return image.rotate(self.degrees, PILImage.Resampling.BICUBIC, fillcolor=(128, 128, 128))
