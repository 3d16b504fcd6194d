"""Images of a single digit: the left one of "a ? b", moved to the middle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.images import Image
from icl.tasks.generated.drawing import Drawing, generated_image
from icl.tasks.generated.world import SIDE

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

LEFT = 22
"""Columns that contain the left digit only."""


@dataclass(frozen=True)
class DigitImage:
    """A recipe for the image of a digit: the digit, and the stream (seed, name) for pen, place and background."""

    seed: int
    name: str
    value: int

    def __call__(self) -> "PILImage":
        from PIL import Image as PILImage

        whole = Drawing(self.seed, self.name, "digits", left=self.value, right=0)()
        ground = whole.getpixel((0, 0))
        assert isinstance(ground, tuple)
        canvas = PILImage.new("RGB", (SIDE, SIDE), ground)
        canvas.paste(whole.crop((0, 0, LEFT, SIDE)), ((SIDE - LEFT) // 2, 0))
        return canvas

    @property
    def image(self) -> Image:
        return generated_image(self, "digit", self.seed)
