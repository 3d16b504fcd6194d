"""Controls that keep the branches of a method, and replace its combination."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from decoding import AllBranchesControl, Arm, ControlTarget, WrappingControl, constant_weights, has_negative_weight
from decoding.base import StepState, Strategy, unit_strength
from decoding.formulas.distributions import constants_like
from icl import ConfigError, NestedComponent, Tensor, component


@component("strategy", "plain_average")
@dataclass(frozen=True)
class PlainAverage(AllBranchesControl):
    """Control: the average of another strategy's branches, under its mask.

    Plain average: the branches of a method with equal weights (a product of experts).

        scores = 1/n sum_b z_b

    It measures the gain of several prompts without the weights of the method.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose branches are averaged

    control_rank: ClassVar[int] = 50

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(PlainAverage(target.strategy)) if not has_negative_weight(target.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        weights = constant_weights(self.of)
        return None if weights is None else (1 / len(weights),) * len(weights)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        return self.apply_inner_mask(logits, step, states, logits.mean(0))


@component("strategy", "plus")
@dataclass(frozen=True)
class Plus(AllBranchesControl):
    """Control: another strategy with positive weights. Raises ConfigError if its weights vary.

    Plus: the branches of a method with the absolute values of its weights.

        scores = sum_b |w_b| z_b

    For VCD this is (1 + alpha) z_0 + alpha z_1. Its weights sum to 1 + 2 alpha, so it is sharper, unlike `sign_flip`.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose weights are used

    def __post_init__(self) -> None:
        if constant_weights(self.of) is None:
            raise ConfigError(
                f"the weights of strategy '{type(self.of).__name__}' vary, but plus needs constant weights. Use the "
                "control sign_flip."
            )

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(map(abs, constant_weights(self.of) or ()))

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        weights = constants_like(self.weights, logits)
        scores: Tensor = (weights[:, None, None] * logits).sum(0)
        return self.apply_inner_mask(logits, step, states, scores)


@component("strategy", "sign_flip")
@dataclass(frozen=True)
class SignFlip(AllBranchesControl):
    """Control: another strategy with the sign of its shift reversed.

    Sign flip: the shift of a method relative to the reference, with the opposite sign.

        scores = s z_0 - (scores of the method - s z_0),      s: the sum of its weights

    For VCD this is (1 - alpha) z_0 + alpha z_1, towards the noised image instead of away from it. If a method gains as
    much with the opposite sign, the direction of its contrast does not matter.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose shift is reversed

    control_rank: ClassVar[int] = 50

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(SignFlip(target.strategy)) if has_negative_weight(target.strategy) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        weights = constant_weights(self.of)
        return None if weights is None else (2 * sum(weights) - weights[0], *(-weight for weight in weights[1:]))

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return self.of.strength(logits, step)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        combined = self.of.combine_stateful(logits, step, states)
        flipped: Tensor = 2 * self.inner_strength(logits, step) * logits[0] - combined
        return flipped.masked_fill(combined == -float("inf"), -float("inf"))


@component("strategy", "mask_only")
@dataclass(frozen=True)
class MaskOnly(WrappingControl):
    """Control: the mask of another strategy on the scores of the reference.

    Mask only: the plausibility mask of a method on the scores of the reference, without the contrast.

    Much of the gain of contrastive decoding over sampling comes from the mask, which makes sampling almost greedy (Yin
    et al. 2025, 2504.10020). The gain of a method that is not better than this control comes from its mask. A mask that
    reads other branches still reads them here, because identical branches would disable it.

    Differs from the released code in the second branch (there an identical one with alpha 1, which disables a mask that
    reads it).
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose mask is used

    control_rank: ClassVar[int] = 10
    keeps_order: ClassVar[bool] = True

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(MaskOnly(target.strategy))

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        return self.apply_inner_mask(logits, step, states, logits[0])
