"""Every pixel the mean of the picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.edits.base import Edit
from icl.registry import component

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("edit", "mean_colour")
@dataclass(frozen=True)
class MeanColour(Edit):
    """Every pixel the picture's own mean colour: its brightness and tint stay, all that is in it goes."""

    def on_picture(self, image: "PILImage") -> "PILImage":
        import numpy as np
        from PIL import Image as PILImage

        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
        return PILImage.new("RGB", image.size, (red, green, blue))
