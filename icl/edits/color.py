"""Changes of color that keep the arrangement."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import NonNegative, component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "color")
@dataclass(frozen=True)
class Color(Edit):
    """Factors of brightness, contrast and saturation (1: unchanged), and a shift of the hue."""

    brightness: NonNegative = 1.0  # factor
    contrast: NonNegative = 1.0  # factor
    saturation: NonNegative = 1.0  # factor
    hue: float = 0.0  # rotation, as a share of the color circle

    def apply_to_image(self, image: "PILImage") -> "PILImage":
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
