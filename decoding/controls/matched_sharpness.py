"""Controls that are as sharp as a method, by a temperature alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from decoding import Arm, ControlTarget, StepState, Strategy, WrappingControl, constant_strength, min_strength
from decoding.formulas.distributions import entropy
from icl import ConfigError, NestedComponent, Tensor, component, torch, widened


@component("strategy", "temperature_matched")
@dataclass(frozen=True)
class TemperatureMatched(WrappingControl):
    """Control: the reference at the hidden temperature of another strategy, under that strategy's mask.

    Temperature matched: the reference at the hidden temperature of a method's weights.

    If the branches agree, weights that sum to s give s z, the reference at temperature T = 1 / s. This control has this
    temperature and the mask of the method, without the contrast. If s varies by row and step, so does the temperature.

    Raises ConfigError if the weights sum to zero or less; `entropy_matched` is defined for those strategies.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose temperature is used

    control_rank: ClassVar[int] = 20
    keeps_order: ClassVar[bool] = True

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(TemperatureMatched(target.strategy)) if min_strength(target.strategy) > 0 else None

    def __post_init__(self) -> None:
        strength = constant_strength(self.of)
        if strength is not None and strength <= 0:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' sum to {strength:g}, but temperature_matched "
                "needs a sum above 0. Use the control entropy_matched."
            )

    @property
    def needs_all_branches(self) -> bool:
        return self.of.traits.masks_in_combine or constant_strength(self.of) is None

    @property
    def weights(self) -> tuple[float, ...] | None:
        strength = constant_strength(self.of)
        return None if strength is None else self.reference_weights(strength)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.of.strength(logits, step)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        strength = constant_strength(self.of)
        scores = logits[0] * (self.of.strength(logits, step) if strength is None else strength)
        return self.apply_inner_mask(logits, step, states, scores)


MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
BISECTIONS, NEWTON_STEPS = 10, 4
"""Bisections leave 2 % of a temperature, from which Newton's method reaches the precision of float64."""


@component("strategy", "entropy_matched")
@dataclass(frozen=True)
class EntropyMatched(WrappingControl):
    """Control: the reference at the temperature that gives it another strategy's entropy, at each step.

    Entropy matched: the reference at the temperature that gives it the method's entropy at each step.

    On the tokens that survive the method, T solves H(softmax(z_0 / T)) = H(softmax(scores of the method)). The control
    is as sharp or flat as the method and shares nothing else with it. It is also defined if the weights sum to zero or
    less.

    If no temperature in [1e-4, 1e4] gives this entropy (ties of the best tokens, flat scores), the nearest end is used.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose entropy is matched

    control_rank: ClassVar[int] = 30
    keeps_order: ClassVar[bool] = True
    weights: ClassVar[None] = None
    needs_all_branches: ClassVar[bool] = True

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """For sampled arms, and for strategies for which `temperature_matched` is not defined."""
        is_suitable = target.is_sampled or min_strength(target.strategy) <= 0
        return target.with_strategy(EntropyMatched(target.strategy)) if is_suitable else None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return 1 / self._temperature(logits, self.of.combine(logits, step))

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        target = self.of.combine_stateful(logits, step, states)
        scores: Tensor = logits[0] / self._temperature(logits, target)
        return scores.masked_fill(target == -float("inf"), -float("inf"))

    def _temperature(self, logits: Tensor, scores: Tensor) -> Tensor:
        """Temperature of each row, [B, 1]. scores: combined scores of `of`, [B, V]."""
        survives = self.surviving_tokens(logits, scores)
        target = entropy(widened(scores.masked_fill(~survives, -float("inf"))))
        reference = widened(logits[0] - logits[0].amax(-1, keepdim=True)).masked_fill(~survives, -float("inf"))
        if logits.device.type == "cpu":  # elsewhere the host would wait for the number
            max_survivors = int(survives.sum(-1).max())
            if max_survivors < survives.shape[-1]:  # a mask leaves few tokens of a large vocabulary
                reference = reference.topk(max_survivors).values
        return temperature_of_entropy(reference, target).to(logits.dtype)


def temperature_of_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The temperature at which the softmax of logits has an entropy, by bisection and Newton's method in x = log T.

        d log H / dx = Var(z / T) / H,    so that    x <- x + log(target / H) H / Var(z / T)

    The host never waits: the number of steps is fixed. Without such a temperature it is the nearest bound.

    Args:
        logits: [B, V]; -inf for tokens that are ruled out.
        target: Entropies in nats, [B, 1].

    Returns:
        Temperatures in [1e-4, 1e4], [B, 1].
    """
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
    return x.exp()
