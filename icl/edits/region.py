"""A masked region of an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Box, ColorLevel
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "region")
@dataclass(frozen=True)
class RegionMask(Box):
    """The content of the box in one color (CRG, Wan et al. 2024: the region that the answer needs, in black)."""

    red: ColorLevel = 0  # of 255
    green: ColorLevel = 0  # of 255
    blue: ColorLevel = 0  # of 255

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        masked = image.copy()
        masked.paste((self.red, self.green, self.blue), self.of(image))
        return masked
