"""Edits that change or remove the colors of an image."""

from dataclasses import dataclass, replace

from icl import PIL, Edit, NonNegative, StreamKey, component, np
from icl.edits.base import ColorLevel
from icl.registry import PatchesPerSide


@component("edit", "blank")
@dataclass(frozen=True)
class Blank(Edit):
    """An image of one color. Not black by default, because some processors read an all-zero image as padding."""

    red: ColorLevel = 128  # of 255
    green: ColorLevel = 128  # of 255
    blue: ColorLevel = 128  # of 255

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return PIL.Image.new("RGB", image.size, (self.red, self.green, self.blue))


@component("edit", "inversion")
@dataclass(frozen=True)
class Inversion(Edit):
    """The negative of an image: each color value v becomes 255 - v."""

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return PIL.ImageOps.invert(image)


@component("edit", "blur")
@dataclass(frozen=True)
class Blur(Edit):
    """Gaussian blur with a standard deviation of `radius` pixels."""

    radius: NonNegative = 2.0  # standard deviation in pixels

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return image.filter(PIL.ImageFilter.GaussianBlur(self.radius))


@component("edit", "mean_color")
@dataclass(frozen=True)
class MeanColor(Edit):
    """An image of the original's mean color: brightness and tint stay, all content is removed."""

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
        return PIL.Image.new("RGB", image.size, (red, green, blue))


@component("edit", "color")
@dataclass(frozen=True)
class Color(Edit):
    """Factors of brightness, contrast and saturation (1: unchanged), and a shift of the hue."""

    brightness: NonNegative = 1.0  # factor
    contrast: NonNegative = 1.0  # factor
    saturation: NonNegative = 1.0  # factor
    hue: float = 0.0  # rotation, as a share of the color circle

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        image = PIL.ImageEnhance.Brightness(image).enhance(self.brightness)
        image = PIL.ImageEnhance.Contrast(image).enhance(self.contrast)
        image = PIL.ImageEnhance.Color(image).enhance(self.saturation)
        turn = round(255 * self.hue) % 256
        if not turn:
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + turn) % 256 for level in range(256)])
        return PIL.Image.merge("HSV", (turned, saturation, value)).convert("RGB")


@component("edit", "random_colors")
@dataclass(frozen=True)
class RandomColors(Edit):
    """An image of soft random colors in the original's size, drawn once for each prompt."""

    patches: PatchesPerSide = 4  # random colors along a side, blended
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "RandomColors":
        return replace(self, stream=key.number(f"made up/{place}", 63))

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        draw = np.random.default_rng(self.stream)
        colors = draw.integers(0, 256, (self.patches, self.patches, 3), dtype=np.uint8)
        return PIL.Image.fromarray(colors).resize(image.size, PIL.Image.Resampling.BICUBIC)
