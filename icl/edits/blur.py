"""An image out of focus."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.constraints import NonNegative
from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "blur")
@dataclass(frozen=True)
class Blur(Edit):
    """Gaussian blur. radius: its standard deviation in pixels."""

    radius: NonNegative = 2.0  # pixels

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(self.radius))
