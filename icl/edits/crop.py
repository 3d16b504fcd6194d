"""A part of an image, made as large as the whole."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Box
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "crop")
@dataclass(frozen=True)
class Crop(Box):
    """What is in the box, at the image's size."""

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return image.crop(self.of(image)).resize(image.size, PILImage.Resampling.BICUBIC)  # nothing from outside it
