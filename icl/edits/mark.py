"""Marks on regions of an image: Set-of-Mark (Yang et al., 2310.11441) and CPT's colors (Yao et al., 2109.11797).

    number   an outline and a number in its upper left corner (Set-of-Mark)
    box      an outline only
    color    a translucent color over the region, as in CPT

A prompt can then name a region by its number or by its color. The regions are boxes, not the masks of a segmentation
model. The control is the same marks at boxes that hold nothing: `boxes` is a parameter.

Differs from the released code in the regions (Set-of-Mark marks masks of SAM) and in the colors (CPT searches them).
"""

from dataclasses import dataclass
from typing import Literal

from icl import PIL, ConfigError, Edit, Fraction, PositiveInt, component
from icl.edits.base import Box

MARK_COLORS: dict[str, tuple[int, int, int]] = {
    "red": (240, 0, 30),
    "blue": (0, 10, 255),
    "green": (0, 190, 60),
    "purple": (155, 50, 210),
    "orange": (255, 140, 0),
    "cyan": (0, 190, 210),
}
"""Colors of the marks, in the order of the boxes. A seventh box has the first color again."""

Boxes = tuple[tuple[Fraction, Fraction, Fraction, Fraction], ...]

_ROWS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71111",
    "8": "75757", "9": "75717",
}  # fmt: skip
"""Each digit as five rows of three pixels, one octal digit for a row."""


@component("edit", "mark")
@dataclass(frozen=True)
class RegionMarks(Edit):
    """Marks on boxes of an image: numbers, outlines or translucent colors."""

    boxes: Boxes = ((0.25, 0.25, 0.75, 0.75),)  # left, top, right and bottom as shares of width and height
    style: Literal["number", "box", "color"] = "number"  # what is drawn
    numbers: tuple[PositiveInt, ...] = ()  # number of each box; none: 1, 2, ... in the order of the boxes
    opacity: Fraction = 0.5  # of the color over the region

    def __post_init__(self) -> None:
        for box in self.boxes:
            Box(*box)
        if self.numbers and len(self.numbers) != len(self.boxes):
            raise ConfigError(
                f"numbers has {len(self.numbers)} entries for {len(self.boxes)} boxes. Give one for each."
            )

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        marked = image.copy()
        pen, width = PIL.ImageDraw.Draw(marked), max(1, min(image.size) // 128)
        numbers = self.numbers or range(1, len(self.boxes) + 1)
        for place, (number, box) in enumerate(zip(numbers, self.boxes, strict=True)):
            color = list(MARK_COLORS.values())[place % len(MARK_COLORS)]
            left, top, right, bottom = Box(*box).of(image)
            if self.style == "color":
                region = marked.crop((left, top, right, bottom))
                plain = PIL.Image.new("RGB", region.size, color)
                marked.paste(PIL.Image.blend(region, plain, self.opacity), (left, top))
                continue
            pen.rectangle((left, top, right - 1, bottom - 1), outline=color, width=width)
            if self.style == "number":
                badge = _badge(number, color, max(1, min(right - left, bottom - top) // 24))
                marked.paste(badge, (left, top))
        return marked


def _badge(number: int, color: tuple[int, int, int], scale: int) -> "PIL.Image.Image":
    """The number in white on its color, with `scale` pixels for a dot of the digits."""
    text = str(number)
    badge = PIL.Image.new("RGB", (4 * len(text) + 1, 7), color)
    for place, digit in enumerate(text):
        for y, row in enumerate(_ROWS[digit]):
            for x in range(3):
                if int(row) >> (2 - x) & 1:
                    badge.putpixel((1 + 4 * place + x, 1 + y), (255, 255, 255))
    return badge.resize((badge.width * scale, badge.height * scale), PIL.Image.Resampling.NEAREST)
