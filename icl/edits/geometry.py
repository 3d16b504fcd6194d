"""Edits that move, cut or hide parts of an image."""

from dataclasses import dataclass, replace
from typing import Literal

from icl import PIL, Edit, StreamKey, component, np
from icl.edits.base import Box, ColorLevel
from icl.edits.colors import MeanColor
from icl.registry import Count, Fraction, PatchesPerSide


@component("edit", "crop")
@dataclass(frozen=True)
class Crop(Box):
    """A crop: the content of the box, resized to the image's size."""

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return image.crop(self.of(image)).resize(image.size, PIL.Image.Resampling.BICUBIC)  # nothing from outside it


@component("edit", "flip")
@dataclass(frozen=True)
class Flip(Edit):
    """The image mirrored left to right or top to bottom."""

    axis: Literal["horizontal", "vertical"] = "horizontal"  # horizontal: left to right; vertical: top to bottom

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return PIL.ImageOps.mirror(image) if self.axis == "horizontal" else PIL.ImageOps.flip(image)


@component("edit", "rotate")
@dataclass(frozen=True)
class Rotate(Edit):
    """The image rotated counterclockwise at its size, with gray corners."""

    degrees: float = 180.0  # counterclockwise

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return image.rotate(self.degrees, PIL.Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


@component("edit", "region")
@dataclass(frozen=True)
class RegionMask(Box):
    """The content of the box in one color (CRG, Wan et al. 2024: the region that the answer needs, in black)."""

    red: ColorLevel = 0  # of 255
    green: ColorLevel = 0  # of 255
    blue: ColorLevel = 0  # of 255

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        masked = image.copy()
        masked.paste((self.red, self.green, self.blue), self.of(image))
        return masked


@component("edit", "masked_patches")
@dataclass(frozen=True)
class MaskedPatches(Edit):
    """Random patches in the image's mean color (VTI, Liu et al. 2025). Each prompt and `draw` masks others."""

    grid: PatchesPerSide = 24  # patches along a side
    share: Fraction = 0.99  # of the patches that are masked
    draw: Count = 0  # number of the random draw
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "MaskedPatches":
        return replace(self, stream=key.number(f"masked/{self.draw}/{place}", 63))

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        order = np.random.default_rng(self.stream).permutation(self.grid**2)
        is_masked = np.zeros(self.grid**2, np.uint8)
        is_masked[order[: int(self.share * self.grid**2)]] = 255
        mask = PIL.Image.fromarray(is_masked.reshape(self.grid, self.grid))
        plain = MeanColor().apply_to_image(image)
        return PIL.Image.composite(plain, image, mask.resize(image.size, PIL.Image.Resampling.NEAREST))


@component("edit", "shuffled_patches")
@dataclass(frozen=True)
class ShuffledPatches(Edit):
    """The image cut into `grid` x `grid` patches that change places: content without arrangement.

    The order is drawn once for each prompt. If `grid` does not divide a side, its last pixels at the right or bottom
    stay in place.
    """

    grid: PatchesPerSide = 4  # patches along a side
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "ShuffledPatches":
        return replace(self, stream=key.number(f"patches/{place}", 63))

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        shuffled = image.copy()
        wide, high = image.width // self.grid, image.height // self.grid
        corners = [(x * wide, y * high) for y in range(self.grid) for x in range(self.grid)]
        order = np.random.default_rng(self.stream).permutation(len(corners)).tolist()
        for (x, y), source in zip(corners, order, strict=True):
            left, top = corners[source]
            shuffled.paste(image.crop((left, top, left + wide, top + high)), (x, y))
        return shuffled
