"""The mean color of an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "mean_color")
@dataclass(frozen=True)
class MeanColor(Edit):
    """An image of the original's mean color: brightness and tint stay, all content is removed."""

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        import numpy as np
        from PIL import Image as PILImage

        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
        return PILImage.new("RGB", image.size, (red, green, blue))
