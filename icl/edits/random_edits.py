"""Random edits: diffusion noise on the processed pixels, and a change that keeps the content of an image."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from icl import PIL, Edit, NestedComponent, StreamKey, Tensor, component, torch
from icl.edits.colors import Blur, Color
from icl.edits.geometry import Crop, Flip, Rotate

DIFFUSION_STEPS = 1000


@component("edit", "noise")
@dataclass(frozen=True)
class DiffusionNoise(Edit):
    """Forward diffusion on the processed pixels (VCD, Leng et al. 2024, as released).

        v' = sqrt(abar_t) v + sqrt(1 - abar_t) eps
        abar = cumprod(1 - beta),    beta_t = sigmoid(-6 .. 6) (.005 - 1e-5) + 1e-5

    `step` is t of 1000; 500 has noise std .51, 999 is nearly pure noise (.96). The noise is drawn once for each prompt
    and stays fixed over decoding.
    """

    applies_to_pixel_values: ClassVar[bool] = True

    step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 500  # diffusion step
    stream: int = 0  # random stream, set by the prompt that binds the edit

    def bind(self, key: StreamKey, place: str) -> "DiffusionNoise":
        return replace(self, stream=key.number(f"noise/{place}", 63))

    def apply_to_pixel_values(self, pixels: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.stream)
        noise = torch.randn(pixels.shape, generator=generator, dtype=torch.float32)
        keep, spread = diffusion_scales(self.step)
        return (keep * pixels.float() + spread * noise.to(pixels.device)).to(pixels.dtype)


def diffusion_scales(step: int) -> tuple[float, float]:
    """(weight of the image, standard deviation of the noise) after `step` of 1000 diffusion steps."""
    line = torch.linspace(-6, 6, DIFFUSION_STEPS, dtype=torch.float64)
    betas = torch.sigmoid(line) * (0.5e-2 - 1e-5) + 1e-5
    alpha_bar = float(torch.cumprod(1 - betas, 0)[step])
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


@component("edit", "random_augmentation")
@dataclass(frozen=True)
class RandomAugmentation(Edit):
    """One of RITUAL's six changes that keep the content (Woo et al., 2405.17821), drawn once for each prompt.

    The changes are flips, a rotation, a change of colors, blur and a crop. The set is the paper's; strengths are
    random.
    """

    change: Annotated[Edit, NestedComponent("edit")] = field(default_factory=Flip)  # the chosen change, once bound

    def bind(self, key: StreamKey, place: str) -> "RandomAugmentation":
        draw = key.numpy(f"ritual/{place}")
        brightness, contrast, saturation = draw.uniform(0.4, 1.6, 3).round(3).tolist()
        left, top, side = draw.uniform([0, 0, 0.5], [0.3, 0.3, 0.7]).round(3).tolist()
        changes = [
            Flip("horizontal"),
            Flip("vertical"),
            Rotate(round(float(draw.uniform(-180, 180)), 3)),
            Color(brightness, contrast, saturation, round(float(draw.uniform(-0.5, 0.5)), 3)),
            Blur(round(float(draw.uniform(1.5, 2.0)), 3)),
            Crop(left, top, left + side, top + side),
        ]
        return replace(self, change=changes[int(draw.integers(len(changes)))])

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return self.change.apply_to_image(image)
