"""A uniform image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import ColorLevel, Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "blank")
@dataclass(frozen=True)
class Blank(Edit):
    """An image of one color. Not black by default, because some processors read an all-zero image as padding."""

    red: ColorLevel = 128  # of 255
    green: ColorLevel = 128  # of 255
    blue: ColorLevel = 128  # of 255

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return PILImage.new("RGB", image.size, (self.red, self.green, self.blue))
