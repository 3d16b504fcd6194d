"""Cross-image contrastive decoding (CICD, Zhao et al., 2505.10634): contrast with the image of another sample.

    z_0 of the prompt,   z_1 of the prompt with the images of another sample's query in the place of its own
    d      = Jensen-Shannon divergence of the two distributions, in bits
    a      = alpha          (select: none)
             alpha d        (select: difference: a token that both images predict is fluency, and stays)
             alpha (1 - d)  (select: agreement: a token that both images predict is the language prior, and goes)
    scores = (1 + a) z_0 - a z_1,   if p(y | prompt) >= beta max p

The abstract says that an unrelated image is the contrast, and that differences between images select which language
priors are suppressed. A later paper of the authors says that alpha depends on this divergence. Its formula was not
available, so `select` names the candidates. Which sample the image comes from depends on seed and query; the released
code can also retrieve one.

No released code was compared.
"""

from dataclasses import dataclass, replace
from math import log
from typing import ClassVar, Literal

from decoding import Note, PlausibleStrategy, Traits, UnitSumStrategy, jensen_shannon
from icl import Fraction, NonNegative, Part, PlanError, Prompt, Tensor, component, torch


@component("strategy", "cicd")
@dataclass(frozen=True)
class CICD(UnitSumStrategy, PlausibleStrategy):
    """Contrast with the prompt that shows the image of another sample; reconstructed from the abstract."""

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    select: Literal["none", "difference", "agreement"] = "difference"  # where the contrast is strong

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}
    traits = Traits(reads_paired_prompt=True)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with the other sample's images, repeated if they are fewer.

        Raises:
            PlanError: There is no other sample, or it has no image.
        """
        others = [] if prompt.paired_prompt is None else _query_images(prompt.paired_prompt)
        own = [part.name for part in _query_images(prompt)]
        if own and not others:
            raise PlanError(
                "strategy 'cicd' shows the image of another sample's query, and no other sample has one. Use a task "
                "with images and two or more queries (in two groups, if queries have groups); in Python, set "
                "Prompt.paired_prompt."
            )
        content = {name: others[i % len(others)].content for i, name in enumerate(own)}
        return prompt, prompt.map(
            lambda part: replace(part, content=content[part.name]) if part.name in content else part
        )

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """logits: [2, B, V] float32 -> scores [B, V]."""
        divergence = jensen_shannon(logits[0], logits[1]) / log(2)
        factors = {"none": torch.ones_like(divergence), "difference": divergence, "agreement": 1 - divergence}
        return logits[0] + self.alpha * factors[self.select] * (logits[0] - logits[1])


def _query_images(prompt: Prompt) -> list[Part]:
    return [part for part in prompt.parts() if part.image is not None and part.within("query")]
