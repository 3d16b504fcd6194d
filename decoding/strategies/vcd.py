"""Visual contrastive decoding (Leng et al., CVPR 2024, 2311.16922, eq. 3): contrast with a noised image.

    scores = (1 + alpha) z(y | image) - alpha z(y | noised image),   if p(y | image) >= beta max p

The noise is forward diffusion on the processed pixels, drawn once per prompt. The weights sum to one, so identical
branches do not change the distribution. The sources disagree on all three parameters; `presets` lists them.

Differs from the released code in two points. Greedy decoding applies the contrast; the release ignores it if
`do_sample` is false. The noised branch has its own cache; until July 2024 the release reused the first branch's cache
from the second token on.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from decoding import ContrastStrategy, Note, PlausibleStrategy
from icl import Fraction, NonNegative, PlanError, Prompt, component
from icl.edits import DIFFUSION_STEPS, DiffusionNoise


@component("strategy", "vcd")
@dataclass(frozen=True)
class VCD(ContrastStrategy, PlausibleStrategy):
    """Contrast with the same prompt with a noised image.

    Presets. released: arguments of the evaluation script. paper: the same with almost pure noise; another paper
    reports the step as "either 500 or 999". sampler: defaults of the released sampler. pope: the released POPE script.
    cd_rethink: the re-implementation of Yin et al. (2504.10020). The published tables use sampling (`sampling:
    {temperature: 1}`); the default here is greedy decoding of the combined scores.
    """

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    noise_step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 500  # of 1000: at 500 noise has sd .51, at 999 .96
    images: Literal["query", "all"] = "query"  # which images are noised: those of the query, or all

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "released": {"alpha": 1.0, "beta": 0.1, "noise_step": 500},
        "paper": {"alpha": 1.0, "beta": 0.1, "noise_step": 999},
        "sampler": {"alpha": 0.5, "beta": 0.1},
        "pope": {"alpha": 1.0, "beta": 0.2, "noise_step": 500},
        "cd_rethink": {"alpha": 1.0, "beta": 0.2, "noise_step": 900},
    }

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with noised images.

        Raises:
            PlanError: The prompt has images, but none belongs to the query.
        """
        noised = prompt.edit(DiffusionNoise(self.noise_step), self.images)
        if prompt.images and not any(image.pixel_value_edits for image in noised.images):
            raise PlanError(
                "vcd noises the query's image, and this query has none. Leave out queries without images, or set "
                "images: all. In a prompt of your own, the part of the image is named 'query.image[0]'."
            )
        return prompt, noised
