"""A mirrored image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "flip")
@dataclass(frozen=True)
class Flip(Edit):
    """The image mirrored left to right or top to bottom."""

    axis: Literal["horizontal", "vertical"] = "horizontal"  # horizontal: left to right; vertical: top to bottom

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        from PIL import ImageOps

        return ImageOps.mirror(image) if self.axis == "horizontal" else ImageOps.flip(image)
