"""An image turned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "rotate")
@dataclass(frozen=True)
class Rotate(Edit):
    """Turned counter-clockwise at its size; the corners that come free are gray."""

    degrees: float = 180.0  # counter-clockwise

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import Image as PILImage

        return image.rotate(self.degrees, PILImage.Resampling.BICUBIC, fillcolor=(128, 128, 128))
