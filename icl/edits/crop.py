"""A part of an image, enlarged to the size of the image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Box
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "crop")
@dataclass(frozen=True)
class Crop(Box):
    """A crop: the content of the box, resized to the image's size."""

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return image.crop(self.of(image)).resize(image.size, PILImage.Resampling.BICUBIC)  # nothing from outside it
