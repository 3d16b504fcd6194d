"""Entropy matched: the reference at the temperature that gives it the method's entropy at each step.

On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(scores of the method)). The control is
as sharp or flat as the method and shares nothing else with it. It is also defined if the weights sum to zero or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import min_strength
from decoding.base import StepState, Strategy, Traits
from decoding.controls.base import WrappingControl
from decoding.formulas.divergences import entropy
from icl.memory.device_copies import widened
from icl.registry import NestedComponent, component

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm, ControlTarget

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
BISECTIONS, NEWTON_STEPS = 10, 4
"""Bisections leave 2 % of a temperature, from which Newton's method reaches the precision of float64."""


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(WrappingControl):
    """Control: the reference at the temperature that gives it another strategy's entropy, at each step.

    If no temperature in [1e-4, 1e4] gives this entropy (ties of the best tokens, flat scores), the nearest end is used.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose entropy is matched

    control_rank: ClassVar[int] = 30

    @property
    def traits(self) -> Traits:
        return replace(super().traits, preserves_argmax=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """For sampled arms, and for strategies for which `temperature_matched` is not defined."""
        is_suitable = target.is_sampled or min_strength(target.strategy) <= 0
        return target.with_strategy(EntropyMatched(target.strategy)) if is_suitable else None

    @property
    def needs_all_branches(self) -> bool:
        return True

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        sharpness: Tensor = 1 / self._temperature(logits, self.of.combine(logits, step))
        return sharpness

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        target = self.of.combine_stateful(logits, step, states)
        scores: Tensor = logits[0] / self._temperature(logits, target)
        return scores.masked_fill(target == -float("inf"), -float("inf"))

    def _temperature(self, logits: "Tensor", scores: "Tensor") -> "Tensor":
        """Temperature of each row, [B, 1]. scores: combined scores of `of`, [B, V]."""
        survives = self.surviving_tokens(logits, scores)
        target = entropy(widened(scores.masked_fill(~survives, -float("inf"))))
        reference = widened(logits[0] - logits[0].amax(-1, keepdim=True)).masked_fill(~survives, -float("inf"))
        if logits.device.type == "cpu":  # elsewhere the host would wait for the number
            max_survivors = int(survives.sum(-1).max())
            if max_survivors < survives.shape[-1]:  # a mask leaves few tokens of a large vocabulary
                reference = reference.topk(max_survivors).values
        return temperature_of_entropy(reference, target).to(logits.dtype)


def temperature_of_entropy(logits: "Tensor", target: "Tensor") -> "Tensor":
    """The temperature at which the softmax of logits has an entropy, by bisection and Newton's method in x = log T.

        d log H / dx = Var(z / T) / H,    so that    x <- x + log(target / H) H / Var(z / T)

    The host never waits: the number of steps is fixed. Without such a temperature it is the nearest bound.

    Args:
        logits: [B, V]; -inf for tokens that are ruled out.
        target: Entropies in nats, [B, 1].

    Returns:
        Temperatures in [1e-4, 1e4], [B, 1].
    """
    import torch

    low = torch.full_like(target, MIN_TEMPERATURE).log()
    high = torch.full_like(target, MAX_TEMPERATURE).log()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_too_high = entropy(logits / middle.exp()) > target
        low, high = torch.where(is_too_high, low, middle), torch.where(is_too_high, middle, high)
    x, possible = (low + high) / 2, logits.masked_fill(logits == -float("inf"), 0.0)
    for _ in range(NEWTON_STEPS):
        now = x.exp()
        probabilities, z = (logits / now).softmax(-1), possible / now
        at_x = torch.special.entr(probabilities).sum(-1, keepdim=True)
        deviation = z - (probabilities * z).sum(-1, keepdim=True)
        variance = (probabilities * deviation.square()).sum(-1, keepdim=True)
        end = torch.where(at_x > target, low, high)  # where the entropy is that of all temperatures in between
        step = (target / at_x).log() * at_x / variance
        x = torch.where(step.isnan(), end, torch.minimum(torch.maximum(x + step, low), high))
    temperature: Tensor = x.exp()
    return temperature
