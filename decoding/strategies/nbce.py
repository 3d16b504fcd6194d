"""Naive Bayes context extension (Su et al., NAACL 2024, 2403.17552): windows of demonstrations, pooled at each step.

    scores = (1 + beta) l(y | window) - beta l(y | no demonstrations)

`window` is the window with minimal entropy at each step, after a top-p cut of all branches. As in the author's code,
`eta` nats are subtracted from the entropy of the window of the step before. Tokens without probability in the empty
context after its cut are scored by the window alone. `pooling: mean` averages the log-probabilities of all windows,
without a cut; beta = n - 1 is then Bayes' rule for n independent windows. The whole prompt is branch 0, for traces and
controls, and has no weight.

Differs from the released code in the windows, which are groups of demonstrations (there parts of a long text).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from decoding import Note, StatefulStrategy, StepState, Traits, steps_per_row, unit_strength
from decoding.formulas.sampling import nucleus_threshold
from decoding.prompt_edits import demonstration_windows, remove_demonstrations
from icl import Count, Fraction, NonNegative, Prompt, Tensor, component

NEG_INF = -float("inf")


@component("strategy", "nbce")
@dataclass(frozen=True)
class NBCE(StatefulStrategy):
    """Window of demonstrations with minimal entropy, contrasted with the prompt without demonstrations."""

    beta: NonNegative = 0.25  # strength of the contrast with the empty context
    windows: Count = 0  # windows of consecutive demonstrations; 0: one per demonstration
    pooling: Literal["min_entropy", "mean"] = "min_entropy"  # how windows are pooled
    top_p: Fraction = 0.95  # cut of each branch before entropies are compared; 1: none
    eta: NonNegative = 0.1  # nats subtracted from the entropy of the last step's window

    traits = Traits(keeps_state=True, masks_in_combine=True)

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, its windows, the query alone."""
        return prompt, *demonstration_windows(prompt, self.windows), remove_demonstrations(prompt)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        logprobs = logits[1:].log_softmax(-1)
        if self.pooling == "mean":
            mean: Tensor = (1 + self.beta) * logprobs[:-1].mean(0) - self.beta * logprobs[-1]
            return mean
        cut = self._cut(logprobs)
        window, empty = self._pool(cut[:-1], step, states), cut[-1]
        scores: Tensor = (1 + self.beta) * window - self.beta * empty
        return scores.where(empty > NEG_INF, window)

    def _cut(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities [n, B, V], -inf outside the nucleus of each row."""
        if self.top_p == 1:
            return logprobs
        rows = logprobs.flatten(0, 1)
        return rows.masked_fill(rows < nucleus_threshold(rows, self.top_p), NEG_INF).view_as(logprobs)

    def _pool(self, windows: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """The window with minimal entropy of each row: log-probabilities [n, B, V] -> [B, V]."""
        import torch

        entropies = torch.special.entr(windows.exp()).sum(-1)
        steps = steps_per_row(step, len(states))
        previous = [state.memory.get(steps[row] - 1) for row, state in enumerate(states)]
        if any(number is not None for number in previous):
            numbers_before = [-1 if number is None else number for number in previous]
            window_before = torch.stack([torch.as_tensor(one, device=entropies.device) for one in numbers_before])
            numbers = torch.arange(len(entropies), device=entropies.device)[:, None]
            entropies = torch.where(numbers == window_before, entropies - self.eta, entropies)
        chosen: Tensor = entropies.argmin(0)
        for row, state in enumerate(states):
            state.memory[steps[row]] = chosen[row]  # stays on the device, so that the host need not wait for it
        window: Tensor = windows[chosen, torch.arange(len(chosen), device=windows.device)]
        return window
