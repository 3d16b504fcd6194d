"""Diffusion noise on the processed pixels, as in published code."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from icl import Edit, StreamKey, Tensor, component, torch

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
