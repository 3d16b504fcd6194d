"""The base classes of image edits."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from icl import PIL
from icl.annotations import Tensor
from icl.errors import ConfigError
from icl.images import Image
from icl.loading import location
from icl.registry import Fraction, build, describe
from icl.streams import StreamKey
from icl.text.json_text import canonical_bytes

ColorLevel = Annotated[int, Ge(0), Le(255)]
"""Intensity of one color channel."""


@dataclass(frozen=True)
class Edit:
    """Base class of image edits. It changes nothing itself.

    Attributes:
        applies_to_pixel_values: Whether the edit changes the processed pixel values.
        keeps_size: Whether images keep their width and height.
    """

    applies_to_pixel_values: ClassVar[bool] = False
    keeps_size: ClassVar[bool] = True

    def bind(self, key: StreamKey, place: str) -> "Edit":
        """The same edit with fixed random numbers. `place` names the image within the prompt."""
        return self

    def describe(self) -> str:
        """The text that identifies this edit in an image's digest."""
        return canonical_bytes(describe(self)).decode()

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return image

    def apply_to_pixel_values(self, pixels: Tensor) -> Tensor:
        return pixels


def build_edit(node: Any, where: str = "") -> Edit:
    """Build the edit of a config node: a name, a mapping or the path of a class. Raises ConfigError."""
    edit = build("edit", node, where)
    if not isinstance(edit, Edit):
        raise ConfigError(f"{location(where)}{type(edit).__name__} is not an edit: it does not extend icl.edits.Edit.")
    return edit


@dataclass(frozen=True)
class Box(Edit):
    """Base class of edits with a box, given as fractions of width and height from the upper left corner."""

    left: Fraction = 0.0  # share of the width
    top: Fraction = 0.0  # share of the height, from above
    right: Fraction = 1.0  # share of the width
    bottom: Fraction = 1.0  # share of the height, from above

    def __post_init__(self) -> None:
        if self.left >= self.right or self.top >= self.bottom:
            raise ConfigError(
                f"a box has left < right and top < bottom, not {self.left:g}, {self.top:g}, {self.right:g}, "
                f"{self.bottom:g}."
            )

    def of(self, image: "PIL.Image.Image") -> tuple[int, int, int, int]:
        """The box as (left, top, right, bottom) in pixels, at least one pixel wide and high."""
        left = min(round(self.left * image.width), image.width - 1)
        top = min(round(self.top * image.height), image.height - 1)
        right, bottom = round(self.right * image.width), round(self.bottom * image.height)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True)
class ReplacementImage(Edit):
    """An edit that replaces the image by another one."""

    keeps_size: ClassVar[bool] = False

    image: Image

    def describe(self) -> str:
        return f"Another({self.image.digest})"

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return self.image.open()
