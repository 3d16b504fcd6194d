"""Gaussian blur."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import NonNegative, component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "blur")
@dataclass(frozen=True)
class Blur(Edit):
    """Gaussian blur with a standard deviation of `radius` pixels."""

    radius: NonNegative = 2.0  # standard deviation in pixels

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(self.radius))
