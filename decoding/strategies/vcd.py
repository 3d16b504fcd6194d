"""Visual contrastive decoding (Leng et al., CVPR 2024, 2311.16922, eq. 3): away from what a noised image would say.

    scores = (1 + alpha) z(y | image) - alpha z(y | noised image),   kept where p(y | image) >= beta max p

The noise is forward diffusion on the processed pixels, drawn once a prompt. The weights sum to one: identical branches
leave the distribution alone. The sources disagree on all three numbers; `presets` names each of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from decoding.base import Note, Strategy
from decoding.formulas.masks import plausibility_mask
from icl.constraints import Fraction, NonNegative
from icl.edits import DIFFUSION_STEPS, DiffusionNoise
from icl.errors import PlanError
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor


@component("strategy", "vcd")
@dataclass(frozen=True)
class VCD(Strategy):
    """Away from what the same prompt with a noised image would say.

    Presets. released: the evaluation script's arguments. paper: the same with nearly pure noise (the paper's step is
    reported second-hand as "either 500 or 999"). sampler: what the released sampler falls back to where nothing is
    passed. pope: the released POPE script. cd_rethink: the re-implementation of Yin et al. (2504.10020). The published
    tables sample (`sampling: {temperature: 1}`); here greedy is the default, and greedy runs the method.
    """

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # of the best token's probability that a token must reach; 0 masks nothing
    noise_step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 500  # of 1000: at 500 noise has sd .51, at 999 .96
    images: Literal["query", "all"] = "query"  # which are noised: the query's alone, or the demonstrations' too

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "released": {"alpha": 1.0, "beta": 0.1, "noise_step": 500},
        "paper": {"alpha": 1.0, "beta": 0.1, "noise_step": 999},
        "sampler": {"alpha": 0.5, "beta": 0.1},
        "pope": {"alpha": 1.0, "beta": 0.2, "noise_step": 500},
        "cd_rethink": {"alpha": 1.0, "beta": 0.2, "noise_step": 900},
    }
    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with noised images. Raises PlanError where no image is the query's."""
        noised = prompt.edit(DiffusionNoise(self.noise_step), self.images)
        if prompt.images and not any(image.pixel_value_edits for image in noised.images):
            raise PlanError(
                "vcd noises the query's image, and no image of this prompt is named 'query.image[...]'. "
                "Name it, or set images: all."
            )
        return prompt, noised

    def mask(self, reference: "Tensor") -> "Tensor | None":
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        """logits: [2, B, V] float32 -> scores [B, V]."""
        seen, noised = logits
        scores: Tensor = (1 + self.alpha) * seen - self.alpha * noised
        return scores
