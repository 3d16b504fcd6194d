"""A part of a picture, made as large as the whole."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Box
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image


@component("edit", "crop")
@dataclass(frozen=True)
class Crop(Box):
    """What is in the box, at the picture's size."""

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image

        return image.crop(self.of(image)).resize(image.size, Image.Resampling.BICUBIC)  # nothing from outside it
