"""What can be done to a picture before a model sees it. A strategy's branches differ by these.

An edit is a frozen dataclass; `told()` is its part of the picture's digest. It acts at one of two places: on the 8-bit
picture (`on_picture`) or on the processed `pixel_values` of one picture (`on_pixels`), where published diffusion noise
lives. An edit that draws random numbers is bound to the stream of its prompt (`bind`) when it is put on one, so the
same query gets the same noise in any batch and at any step of decoding.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from icl.streams import StreamKey

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

DIFFUSION_STEPS = 1000


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

    red: int = 128
    green: int = 128
    blue: int = 128

    def on_picture(self, image: "Image") -> "Image":
        from PIL import Image

        return Image.new("RGB", image.size, (self.red, self.green, self.blue))


@dataclass(frozen=True)
class DiffusionNoise(Edit):
    """Forward diffusion on the processed pixels (VCD, Leng et al. 2024, as released).

        v' = sqrt(abar_t) v + sqrt(1 - abar_t) eps
        abar = cumprod(1 - beta),    beta_t = sigmoid(-6 .. 6) (.005 - 1e-5) + 1e-5

    `step`: t of 1000; 500 has noise std .51, 999 is nearly pure noise (.96). Drawn once a prompt, fixed over decoding.
    """

    on_pixels_too: ClassVar[bool] = True

    step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 500
    stream: str = ""

    def bind(self, key: StreamKey, place: str) -> "DiffusionNoise":
        return replace(self, stream=f"{key.number(f'noise/{place}', 63)}")

    def on_pixels(self, pixels: "Tensor") -> "Tensor":
        import torch

        generator = torch.Generator().manual_seed(int(self.stream or 0))
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
