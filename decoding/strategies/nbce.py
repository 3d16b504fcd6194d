"""Naive Bayes context extension (Su et al., NAACL 2024, 2403.17552): of demonstrations read apart, the surest speaks.

    scores = (1 + beta) l(y | window) - beta l(y | no demonstrations)

`window` is at each step the one of least entropy, after a top-p cut of all branches; the window of the step before is
preferred by `stickiness` nats, as in the author's code. Where the empty context has no mass after its cut, the window
speaks alone. `pool: mean` averages the windows' log-probabilities instead, without a cut; beta = n - 1 is then Bayes'
rule for n independent windows. There is no reference of its own: the whole prompt is read for traces and controls, and
has no weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from decoding.base import Note, StatefulStrategy, StepState, unit_strength
from decoding.formulas.sampling import nucleus_threshold
from decoding.prompt_edits import demonstration_windows, remove_demonstrations
from decoding.traits import Traits
from icl.constraints import Count, Fraction, NonNegative
from icl.registry import component
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

NEG_INF = -float("inf")


@component("strategy", "nbce")
@dataclass(frozen=True)
class NBCE(StatefulStrategy):
    """Demonstrations in windows read apart; the surest window, away from what is said without any."""

    beta: NonNegative = 0.25  # strength of the contrast with the empty context
    windows: Count = 0  # groups of demonstrations; 0: one each
    pool: Literal["surest", "mean"] = "surest"  # which window speaks
    top_p: Fraction = 0.95  # of each branch, before entropies are compared; 1: all
    stickiness: NonNegative = 0.1  # nats by which the last step's window is preferred

    traits = Traits(keeps_state=True, masks_in_combine=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, its windows, the query alone."""
        return prompt, *demonstration_windows(prompt, self.windows), remove_demonstrations(prompt)

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        told = logits[1:].log_softmax(-1)
        if self.pool == "mean":
            mean: Tensor = (1 + self.beta) * told[:-1].mean(0) - self.beta * told[-1]
            return mean
        cut = self._cut(told)
        chosen = self._surest(cut[:-1], step, states)
        window = cut[:-1].gather(0, chosen[None, :, None].expand(1, *cut.shape[1:]))[0]
        merged: Tensor = (1 + self.beta) * window - self.beta * cut[-1]
        return merged.where(cut[-1] > NEG_INF, window)

    def _cut(self, told: "Tensor") -> "Tensor":
        if self.top_p == 1:
            return told
        every = told.flatten(0, 1)
        return every.masked_fill(every < nucleus_threshold(every, self.top_p), NEG_INF).view_as(told)

    def _surest(self, windows: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        """[B] number of the window of least entropy. windows: [n, B, V] log-probabilities, cut."""
        import torch

        entropies = torch.special.entr(windows.exp()).sum(-1)
        for row, state in enumerate(states):
            if step - 1 in state.memory:
                entropies[state.memory[step - 1], row] -= self.stickiness
        chosen: Tensor = entropies.argmin(0)
        for state, number in zip(states, chosen.tolist(), strict=True):
            state.memory[step] = number
        return chosen
