"""Every pixel one color."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit, Level
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "blank")
@dataclass(frozen=True)
class Blank(Edit):
    """Every pixel one color. Not black by default: an all-zero image breaks processors that read it as padding."""

    red: Level = 128  # of 255
    green: Level = 128  # of 255
    blue: Level = 128  # of 255

    def on_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return PILImage.new("RGB", image.size, (self.red, self.green, self.blue))
