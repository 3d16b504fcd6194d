"""What can be done to a picture before a model sees it. A strategy's branches differ by these.

An edit is a frozen dataclass; `told()` is its part of the picture's digest. It acts at one of two places: on the 8-bit
picture (`on_picture`) or on the processed `pixel_values` of one picture (`on_pixels`), where published diffusion noise
lives. An edit that draws random numbers is bound to the stream of its prompt (`bind`) when it is put on one, so the
same query gets the same noise in any batch and at any step of decoding. `stream` is what it was bound to.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from icl.errors import ConfigError
from icl.params import NonNegative, Share
from icl.streams import StreamKey

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from icl.pictures import Picture

DIFFUSION_STEPS = 1000

Level = Annotated[int, Ge(0), Le(255)]
"""Of one colour of a pixel."""


@dataclass(frozen=True)
class Edit:
    """Base of all edits: by itself it changes nothing."""

    on_pixels_too: ClassVar[bool] = False

    def bind(self, key: StreamKey, place: str) -> "Edit":
        """The same edit with its randomness fixed; `place` names the picture within the prompt."""
        return self

    def told(self) -> str:
        return repr(self)

    def on_picture(self, image: "Image") -> "Image":
        return image

    def on_pixels(self, pixels: "Tensor") -> "Tensor":
        return pixels


@dataclass(frozen=True)
class Blank(Edit):
    """Every pixel one colour. Not black by default: an all-zero picture breaks processors that read it as padding."""

    red: Level = 128
    green: Level = 128
    blue: Level = 128

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image

        return Image.new("RGB", image.size, (self.red, self.green, self.blue))


@dataclass(frozen=True)
class MeanColour(Edit):
    """Every pixel the picture's own mean colour: its brightness and tint stay, all that is in it goes."""

    def on_picture(self, image: "Image") -> "Image":
        import numpy as np
        from PIL import Image

        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
        return Image.new("RGB", image.size, (red, green, blue))


@dataclass(frozen=True)
class ShuffledPatches(Edit):
    """The picture cut into `grid` x `grid` patches, which change places: content without arrangement.

    Drawn once a prompt. Sides that `grid` does not divide keep their last pixels, at the right and below, in place.
    """

    grid: Annotated[int, Ge(2)] = 4  # patches a side
    stream: int = 0

    def bind(self, key: StreamKey, place: str) -> "ShuffledPatches":
        return replace(self, stream=key.number(f"patches/{place}", 63))

    def on_picture(self, image: "Image") -> "Image":
        import numpy as np

        shuffled = image.copy()
        wide, high = image.width // self.grid, image.height // self.grid
        corners = [(x * wide, y * high) for y in range(self.grid) for x in range(self.grid)]
        order = np.random.default_rng(self.stream).permutation(len(corners)).tolist()
        for (x, y), source in zip(corners, order, strict=True):
            left, top = corners[source]
            shuffled.paste(image.crop((left, top, left + wide, top + high)), (x, y))
        return shuffled


@dataclass(frozen=True)
class Box(Edit):
    """Base of edits with a place: a box as shares of width and height, from the upper left corner."""

    left: Share = 0.0
    top: Share = 0.0
    right: Share = 1.0
    bottom: Share = 1.0

    def __post_init__(self) -> None:
        if self.left >= self.right or self.top >= self.bottom:
            raise ConfigError(
                f"a box has left < right and top < bottom, not {self.left:g}, {self.top:g}, {self.right:g}, "
                f"{self.bottom:g}."
            )

    def of(self, image: "Image") -> tuple[int, int, int, int]:
        """In pixels, at least one wide and high."""
        left = min(round(self.left * image.width), image.width - 1)
        top = min(round(self.top * image.height), image.height - 1)
        right, bottom = round(self.right * image.width), round(self.bottom * image.height)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True)
class Crop(Box):
    """What is in the box, at the picture's size."""

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image

        return image.crop(self.of(image)).resize(image.size, Image.Resampling.BICUBIC)  # nothing from outside it


@dataclass(frozen=True)
class RegionMask(Box):
    """What is in the box, in one colour (CRG, Wan et al. 2024: the region that the answer needs, blacked out)."""

    red: Level = 0
    green: Level = 0
    blue: Level = 0

    def on_picture(self, image: "Image") -> "Image":
        masked = image.copy()
        masked.paste((self.red, self.green, self.blue), self.of(image))
        return masked


@dataclass(frozen=True)
class Flip(Edit):
    """Mirrored, left to right or top to bottom."""

    axis: Literal["horizontal", "vertical"] = "horizontal"

    def on_picture(self, image: "Image") -> "Image":
        from PIL import ImageOps

        return ImageOps.mirror(image) if self.axis == "horizontal" else ImageOps.flip(image)


@dataclass(frozen=True)
class Rotate(Edit):
    """Turned counter-clockwise at its size; the corners that come free are grey."""

    degrees: float = 180.0

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image

        return image.rotate(self.degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


@dataclass(frozen=True)
class Colour(Edit):
    """Brightness, contrast and saturation multiplied (1: as it is), the hue turned by a share of the colour circle."""

    brightness: NonNegative = 1.0
    contrast: NonNegative = 1.0
    saturation: NonNegative = 1.0
    hue: float = 0.0

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image, ImageEnhance

        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        turn = round(255 * self.hue) % 256
        if not turn:
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + turn) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


@dataclass(frozen=True)
class Blur(Edit):
    """Gaussian blur. radius: its standard deviation in pixels."""

    radius: NonNegative = 2.0

    def on_picture(self, image: "Image") -> "Image":
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(self.radius))


@dataclass(frozen=True)
class Varied(Edit):
    """One of RITUAL's six changes that keep the content (Woo et al., 2405.17821), drawn once a prompt.

    Flips, a rotation, a change of colours, blur, a crop. The set is the paper's; how strong each is, is drawn here.
    """

    change: Edit = Edit()

    def bind(self, key: StreamKey, place: str) -> "Varied":
        draw = key.numpy(f"ritual/{place}")
        brightness, contrast, saturation = draw.uniform(0.4, 1.6, 3).round(3).tolist()
        left, top, side = draw.uniform([0, 0, 0.5], [0.3, 0.3, 0.7]).round(3).tolist()
        changes = [
            Flip("horizontal"),
            Flip("vertical"),
            Rotate(round(float(draw.uniform(-180, 180)), 3)),
            Colour(brightness, contrast, saturation, round(float(draw.uniform(-0.5, 0.5)), 3)),
            Blur(round(float(draw.uniform(1.5, 2.0)), 3)),
            Crop(left, top, left + side, top + side),
        ]
        return replace(self, change=changes[int(draw.integers(len(changes)))])

    def on_picture(self, image: "Image") -> "Image":
        return self.change.on_picture(image)


@dataclass(frozen=True)
class MadeUp(Edit):
    """A picture of nothing in the place of this one, of its size: soft random colours, drawn once a prompt."""

    patches: Annotated[int, Ge(2)] = 4  # random colours a side, blended into one another
    stream: int = 0

    def bind(self, key: StreamKey, place: str) -> "MadeUp":
        return replace(self, stream=key.number(f"made up/{place}", 63))

    def on_picture(self, image: "Image") -> "Image":
        import numpy as np
        from PIL import Image

        draw = np.random.default_rng(self.stream)
        colours = draw.integers(0, 256, (self.patches, self.patches, 3), dtype=np.uint8)
        return Image.fromarray(colours).resize(image.size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Another(Edit):
    """Another picture in the place of this one."""

    picture: "Picture"

    def told(self) -> str:
        return f"Another({self.picture.digest})"

    def on_picture(self, image: "Image") -> "Image":
        return self.picture.open()


@dataclass(frozen=True)
class DiffusionNoise(Edit):
    """Forward diffusion on the processed pixels (VCD, Leng et al. 2024, as released).

        v' = sqrt(abar_t) v + sqrt(1 - abar_t) eps
        abar = cumprod(1 - beta),    beta_t = sigmoid(-6 .. 6) (.005 - 1e-5) + 1e-5

    `step`: t of 1000; 500 has noise std .51, 999 is nearly pure noise (.96). Drawn once a prompt, fixed over decoding.
    """

    on_pixels_too: ClassVar[bool] = True

    step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 500
    stream: int = 0

    def bind(self, key: StreamKey, place: str) -> "DiffusionNoise":
        return replace(self, stream=key.number(f"noise/{place}", 63))

    def on_pixels(self, pixels: "Tensor") -> "Tensor":
        import torch

        generator = torch.Generator().manual_seed(self.stream)
        noise = torch.randn(pixels.shape, generator=generator, dtype=torch.float32)
        keep, spread = diffusion_scales(self.step)
        return (keep * pixels.float() + spread * noise.to(pixels.device)).to(pixels.dtype)


def diffusion_scales(step: int) -> tuple[float, float]:
    """(weight of the picture, standard deviation of the noise) after `step` of 1000 diffusion steps."""
    import torch

    line = torch.linspace(-6, 6, DIFFUSION_STEPS, dtype=torch.float64)
    betas = torch.sigmoid(line) * (0.5e-2 - 1e-5) + 1e-5
    kept = float(torch.cumprod(1 - betas, 0)[step])
    return kept**0.5, (1 - kept) ** 0.5
