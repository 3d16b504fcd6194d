"""Instruction contrastive decoding (Wang et al., ACL Findings 2024, 2403.18715): contrast with a disturbed instruction.

    scores = (1 + alpha) z(y | instruction) - alpha z(y | disturbed instruction),   if p(y) >= beta max p

The disturbance is a role that the model has to play. It stands before the query's question; images and demonstrations
are unchanged. The paper lists five texts. The released code has an optional second branch with a noised image, which
`contrast` with two branches can express.

Differs from the released code in two points. The disturbance is always in the prompt; for InstructBLIP, the release
puts it into the Q-Former's text. The release adds the contrast of its optional branch, so that its weights sum to 2.
"""

from dataclasses import dataclass
from typing import ClassVar

from decoding import ContrastStrategy, Note, PlausibleStrategy, wrap_question
from icl import Fraction, NonNegative, Prompt, component

DISTURBANCE = "You are a confused objects detector to provide a fuzzy overview or impression of the image. "


@component("strategy", "icd")
@dataclass(frozen=True)
class ICD(ContrastStrategy, PlausibleStrategy):
    """Contrast with the prompt with a disturbing instruction before the question.

    Presets. released: arguments of the evaluation script. sampler: defaults of the released sampler.
    """

    alpha: NonNegative = 1.0  # strength of the contrast; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    disturbance: str = DISTURBANCE  # text before the query's question in the second branch

    presets: ClassVar[dict[str, dict[str, float]]] = {
        "released": {"alpha": 1.0, "beta": 0.1},
        "sampler": {"alpha": 0.5, "beta": 0.1},
    }

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, wrap_question(prompt, before=self.disturbance)
