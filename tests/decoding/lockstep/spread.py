"""A strategy in a file, with branches whose prompts differ in length as much as possible."""

from dataclasses import dataclass, replace

from torch import Tensor

from decoding import Strategy
from decoding.formulas.distributions import plausibility_mask
from icl.types import Prompt


@dataclass(frozen=True)
class Spread(Strategy):
    """Branch 1 has no images, branch 2 no demonstrations, further ones lose one more turn from the front each.

    Each further one weighs more than the one before, so that it matters which is which.
    """

    branch_count: int = 3
    beta: float = 0.05

    def branches(self, prompt: Prompt, note: object = None) -> tuple[Prompt, ...]:
        made = [prompt, prompt.without_images(), replace(prompt, turns=prompt.turns[-1:])]
        while len(made) < self.branch_count:
            made.append(replace(prompt, turns=prompt.turns[2 * (len(made) - 2) :] or prompt.turns[-1:]))
        return tuple(made[: self.branch_count])

    def mask(self, reference: Tensor) -> Tensor | None:
        return plausibility_mask(reference, self.beta)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        total, others = 0.9 if step % 2 else 0.6, len(logits) - 1
        scores: Tensor = (1 + total) * logits[0]
        for place in range(1, others + 1):
            scores = scores - total * place / (others * (others + 1) / 2) * logits[place]
        return scores
