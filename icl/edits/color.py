"""Colours changed, arrangement kept."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.constraints import NonNegative
from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "colour")
@dataclass(frozen=True)
class Colour(Edit):
    """Brightness, contrast and saturation multiplied (1: as it is), the hue turned by a share of the colour circle."""

    brightness: NonNegative = 1.0  # times that of the picture
    contrast: NonNegative = 1.0  # times that of the picture
    saturation: NonNegative = 1.0  # times that of the picture
    hue: float = 0.0  # share of the colour circle that it is turned by

    def on_picture(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage
        from PIL import ImageEnhance

        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        turn = round(255 * self.hue) % 256
        if not turn:
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + turn) % 256 for level in range(256)])
        return PILImage.merge("HSV", (turned, saturation, value)).convert("RGB")
