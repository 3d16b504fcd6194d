"""Residual Decoding (ResDec, Chen et al., CVPR 2026, 2602.01047): the next token also follows confident earlier steps.

    Omega_t = the `candidates` best tokens of step t
    J_i     = JSD(P_i, P_i-1) over Omega_t, for the last `window` steps
    Delta_t = the steps from the smallest J_i on: distributions that are anchored, and those that diverge after them
    C_i     = -1/|Omega_t| sum over Omega_t of log P_i
    scores  = (1 - alpha) l_t + alpha sum over Delta_t of C_i l_i / sum C_i,      where p(y) >= beta max p

The first two steps have no J_i before them and are greedy, so answers of one or two tokens do not change. The control
is `history: all`, the mean over the whole window.

Formulas, alpha, beta and the range of `candidates` (64 to 512) are the paper's, as two public notes on it quote them;
the paper itself was not read. Ours: `window`; that the smallest J begins Delta_t (the paper has a curve of three phases
and says of Delta_t that it leaves out the first one); that P_i in J_i sums to one over Omega_t. No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import PlausibleStrategy, StatefulStrategy, StepState, Traits, jensen_shannon
from icl import Fraction, PositiveInt, Tensor, component, torch


def residual_guidance(logprobs: Tensor, candidates: Tensor, is_anchored: bool = True) -> Tensor:
    """The mean log-probabilities of earlier steps, weighted by their confidence C: [N + 1, V], [K] -> [V].

    Args:
        logprobs: Log-probabilities of N + 1 >= 2 steps, the oldest first. The oldest one is only compared with.
        candidates: Numbers of the tokens of Omega_t.
        is_anchored: Whether steps before the one that changed least are left out.
    """
    pool = logprobs[:, candidates]
    first = int(jensen_shannon(pool[1:], pool[:-1]).argmin()) if is_anchored else 0
    confidences = -pool[1 + first :].mean(-1, keepdim=True)
    return (confidences * logprobs[1 + first :]).sum(0) / confidences.sum()


@component("strategy", "resdec")
@dataclass(frozen=True)
class ResDec(PlausibleStrategy, StatefulStrategy):
    """The reference, mixed with the confident steps before it from the most stable one on."""

    alpha: Fraction = 0.5  # share of the earlier steps; 0 is the reference under the mask
    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing
    candidates: PositiveInt = 64  # tokens over which steps are compared
    window: PositiveInt = 8  # number of steps before this one
    history: Literal["anchored", "all"] = "anchored"  # steps of the window that count

    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}
    weights: ClassVar[tuple[float]] = (1.0,)
    traits = Traits(keeps_state=True)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """logits: [1, B, V] float32 -> scores [B, V]. A state keeps the log-probabilities of each step."""
        scores = logits[0].log_softmax(-1)
        for row, state in zip(scores, states, strict=True):
            state.memory[step] = row.clone()
            state.memory.pop(step - self.window - 2, None)
            past = [state.memory[i] for i in range(step - self.window - 1, step) if i in state.memory]
            if len(past) > 1 and self.alpha:
                possible = row.topk(min(self.candidates, int(row.isfinite().sum()))).indices
                guidance = residual_guidance(torch.stack(past), possible, self.history == "anchored")
                row[row.isfinite()] = torch.lerp(row, guidance, self.alpha)[row.isfinite()]
        return scores
