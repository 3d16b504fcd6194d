"""Residual Decoding (2602.01047): the next token also follows the stable part of the recent distributions.

    J_i = JSD(p_i, p_i-1) over the last `window` steps,    S = {i: J_i <= median J}
    r = sum over S of c_i l_i / sum over S of c_i,         c_i = max p_i,   l_i = log p_i
    scores = l_t + alpha r,      if p(y) >= beta max p

The first two steps have no divergence before them and are greedy, so answers of one or two tokens do not change. The
control is `history: all`, the plain mean of all steps in the window.

No released code: a reconstruction from the abstract. The median, the weights c and the sum are not the paper's.
`resdec` has its formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import PlausibleStrategy, StatefulStrategy, StepState, Traits, jensen_shannon
from icl import Fraction, NonNegative, PositiveInt, Tensor, component, torch


def residual(logprobs: Tensor, divergences: Tensor, stable: bool = True) -> Tensor:
    """The weighted mean of a history: log-probabilities [N, V] and divergences [N] -> [V].

    Args:
        logprobs: Log-probabilities of N >= 1 steps.
        divergences: Divergence of each step from the one before.
        stable: Whether only steps at or below the lower median count.
    """
    if stable:  # no weight of 0 for the others, because 0 * -inf is no number
        logprobs = logprobs[divergences <= divergences.median()]
    weights = logprobs.amax(-1).exp()
    return (weights[:, None] * logprobs).sum(0) / weights.sum()


@component("strategy", "residual")
@dataclass(frozen=True)
class ResidualDecoding(PlausibleStrategy, StatefulStrategy):
    """The reference plus the weighted mean of the steps before at which the distribution was stable."""

    alpha: NonNegative = 0.5  # weight of the history; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    window: PositiveInt = 8  # number of steps before this one
    history: Literal["stable", "all"] = "stable"  # steps of the window that count

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}
    weights: ClassVar[tuple[float]] = (1.0,)
    traits = Traits(keeps_state=True)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """logits: [1, B, V] float32 -> scores [B, V]. A state keeps (log-probabilities, divergence) of each step."""
        logprobs = logits[0].log_softmax(-1)
        rows = []
        for row, state in zip(logprobs, states, strict=True):
            before = state.memory.get(step - 1)
            divergence = None if before is None else jensen_shannon(row[None], before[0][None])[0, 0]
            state.memory[step] = (row, divergence)
            state.memory.pop(step - self.window - 1, None)
            past = [state.memory[i] for i in range(step - self.window, step) if i in state.memory]
            past = [(scores, change) for scores, change in past if change is not None]
            if not past or not self.alpha:
                rows.append(row)
                continue
            stacked, divergences = (torch.stack(list(values)) for values in zip(*past, strict=True))
            history = residual(stacked, divergences, self.history == "stable")
            rows.append(torch.where(row.isinf(), row, row + self.alpha * history))
        return torch.stack(rows)
