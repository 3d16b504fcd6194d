"""`check_strategy` refuses strategies that break its rules."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding import conformance
from decoding.arms.arm import Arm, default_controls
from decoding.arms.greedy import GreedyDecoding
from decoding.arms.inspection import measure_weights
from decoding.base import Note, Strategy
from decoding.conformance import check_strategy
from decoding.strategies.chasd import CHASD
from decoding.strategies.dola import DoLa
from decoding.strategies.prior_of_answer import CED
from decoding.strategies.ritual import RITUAL
from decoding.strategies.vcd import VCD
from decoding.strategies.without_image import M3ID
from icl.edits import DiffusionNoise
from icl.errors import ConfigError, PlanError
from icl.types import Prompt


@dataclass(frozen=True)
class InPlace(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0].mul_(2) - logits[1]


@dataclass(frozen=True)
class MixesRows(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits - logits.mean(1, keepdim=True), step)


@dataclass(frozen=True)
class Double(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits.double(), step)


@dataclass(frozen=True)
class EmptyMask(VCD):
    def mask(self, reference: Tensor) -> Tensor:
        return reference > reference.amax(-1, keepdim=True)


@dataclass(frozen=True)
class UndeclaredMask(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits, step).masked_fill(logits[1] < -2, -math.inf)


@dataclass(frozen=True)
class WrongWeights(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return (1 - self.alpha) * logits[0] + self.alpha * logits[1]


@dataclass(frozen=True)
class WrongZero(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return (2 + self.alpha) * logits[0] - (1 + self.alpha) * logits[1]

    @property
    def weights(self) -> tuple[float, float]:
        return 2 + self.alpha, -1 - self.alpha


@dataclass(frozen=True)
class ChangesBranches(VCD):
    calls = [0]  # noqa: RUF012

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        self.calls[0] += 1
        return prompt, prompt.edit(DiffusionNoise(self.calls[0]))


@dataclass(frozen=True)
class Random(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits, step) + torch.rand(logits.shape[1:])


@dataclass(frozen=True)
class NotANumber(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[0].log()


@dataclass(frozen=True)
class ListOfBranches(VCD):
    def branches(self, prompt: Prompt, note: Note = None) -> list[Prompt]:  # type: ignore[override]
        return [prompt, prompt]


@dataclass(frozen=True)
class DecidesTooMuch(VCD):
    def reference_decides(self, reference: Tensor) -> Tensor:
        return torch.ones(len(reference), dtype=torch.bool)


@dataclass
class NotFrozen(Strategy):
    alpha: float = 1.0


@dataclass(frozen=True)
class GrowsLater(Strategy):
    """A contrast that begins at the ninth token. Its weights are the reference's at the first two."""

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, prompt.edit(DiffusionNoise(500))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        weight = 0.5 * (step >= 8)
        return logits[0] - weight * logits[1]


@dataclass(frozen=True)
class GrowsLaterWithStrength(GrowsLater):
    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.new_full((logits.shape[1], 1), 0.5 if step >= 8 else 1.0)


@dataclass(frozen=True)
class WrongStrength(GrowsLater):
    def strength(self, logits: Tensor, step: int) -> Tensor:
        return torch.ones(logits.shape[1], 1)


@dataclass(frozen=True)
class FlatStrength(GrowsLater):
    def strength(self, logits: Tensor, step: int) -> Tensor:
        return torch.ones(logits.shape[1])


@dataclass(frozen=True)
class DeclaresGrowth(GrowsLater):
    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, 0.0


@dataclass(frozen=True)
class FailsOnBannedTokens(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits - logits.amin(-1, keepdim=True), step)


@dataclass(frozen=True)
class LosesATokenBesideBannedOnes(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        scores = super().combine(logits, step)
        scores[:, 0] += 0 * logits[0].amin(-1)  # NaN if a token is banned
        return scores


@dataclass(frozen=True)
class Tilted(VCD):
    """Weights of sum one, and a constant that prefers the last tokens."""

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits, step) + torch.arange(logits.shape[-1]) / 10


@dataclass(frozen=True)
class Listed(Strategy):
    values: object = ()


@dataclass(frozen=True)
class NoBranch(VCD):
    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return ()


@dataclass(frozen=True)
class TextAsBranch(VCD):
    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, "text"  # type: ignore[return-value]  # what is refused


@dataclass(frozen=True)
class MaskChangesLogits(VCD):
    def mask(self, reference: Tensor) -> Tensor:
        reference[:, 0] = 50.0
        return reference > 0


@dataclass(frozen=True)
class ScoresAsList(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return [0.0]  # type: ignore[return-value]  # what is refused


@dataclass(frozen=True)
class PlusInfinity(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits, step).masked_fill(logits[0] > 5, math.inf)


@dataclass(frozen=True)
class OneRow(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits, step)[:1]


@dataclass(frozen=True)
class NumberMask(VCD):
    def mask(self, reference: Tensor) -> Tensor:
        return torch.ones_like(reference)


@dataclass(frozen=True)
class FlatMask(VCD):
    def mask(self, reference: Tensor) -> Tensor:
        return torch.ones(reference.shape[-1], dtype=torch.bool)


@dataclass(frozen=True)
class ThreeWeights(VCD):
    @property
    def weights(self) -> tuple[float, ...]:  # type: ignore[override]  # what is refused
        return 1.0, 1.0, -1.0


@dataclass(frozen=True)
class DecidesOneRow(VCD):
    def reference_decides(self, reference: Tensor) -> Tensor:
        return torch.zeros(1, dtype=torch.bool)


@dataclass(frozen=True)
class WeighsByRow(GrowsLater):
    """A contrast where a token has a high logit."""

    def combine(self, logits: Tensor, step: int) -> Tensor:
        weight = (logits[0].amax(-1, keepdim=True) > 3).float()
        return logits[0] - weight * logits[1]


@dataclass(frozen=True)
class MixesRowsAtLaterSteps(VCD):
    def combine(self, logits: Tensor, step: int) -> Tensor:
        return super().combine(logits - (step >= 7) * logits.mean(1, keepdim=True), step)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (InPlace(), "changed the logits"),
        (MixesRows(), "other rows of its batch"),
        (Double(), "not float32"),
        (EmptyMask(), "at least one must"),
        (UndeclaredMask(), "masks_in_combine"),
        (WrongWeights(), "combine\\(\\) weighs"),
        (WrongZero(), "alpha = 0"),
        (ChangesBranches(), "called again"),
        (Random(), "pure function"),
        (NotANumber(), "NaN"),
        (ListOfBranches(), "tuple"),
        (DecidesTooMuch(), "do change"),
        (NotFrozen(), "frozen"),
        (GrowsLater(), "step 1: 1, 0; step 8: 1, -0.5; step 64: 1, -0.5.*define strength"),
        (WrongStrength(), "step 8: strength\\(\\) is 1, but the weights of combine\\(\\) sum to 0.5"),
        (FlatStrength(), "strength\\(\\) must return finite numbers \\[B, 1\\]"),
        (DeclaresGrowth(), "differently at each step"),
        (FailsOnBannedTokens(), "banned"),
        (LosesATokenBesideBannedOnes(beta=0.0), "banned"),
        (Tilted(), "identical branches do not decode as the reference"),
        (NoBranch(), "at least one prompt"),
        (TextAsBranch(), "not a Prompt"),
        (MaskChangesLogits(), "changed the logits in place"),
        (ScoresAsList(), "returned list, not scores"),
        (PlusInfinity(), "NaN or \\+inf"),
        (OneRow(), "shape \\(1, 97\\), not \\[B, V\\]"),
        (NumberMask(), "mask\\(\\) returned torch.float32, not bool"),
        (FlatMask(), "mask\\(\\) returned shape \\(97,\\), not \\[B, V\\]"),
        (ThreeWeights(), "weights has 3 numbers for 2 branches"),
        (DecidesOneRow(), "reference_decides\\(\\) returned shape \\(1,\\), not \\[B\\]"),
        (WeighsByRow(), "step 0: from row to row; step 1: from row to row"),
        (MixesRowsAtLaterSteps(), "step 7: a row's scores"),
        (Listed([1.0]), "cannot be converted to JSON or hashed"),
        (Listed(object()), "cannot be converted to JSON or hashed"),
    ],
)
def test_a_broken_strategy_is_refused_with_the_reason(strategy: Strategy, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)


def test_facts_are_described_in_one_line() -> None:
    assert check_strategy(VCD(alpha=0.5)).describe() == (
        "2 branches, with a mask, weights 1.5, -0.5 (sum 1): identical branches decode as the reference"
    )


def test_default_controls_of_weights_that_vary_without_a_strength_are_a_sentence() -> None:
    sentence = r"^GrowsLater\.combine\(\) weighs the branches .*step 8: 1, -0\.5.*define strength"
    with pytest.raises(ConfigError, match=sentence):
        default_controls(Arm(GrowsLater()))


def test_weights_that_change_after_the_first_steps_are_not_constant() -> None:
    """At steps 0 and 1 the weights are (1, 0); a control built for them would miss the contrast of later steps."""
    assert measure_weights(GrowsLater()) is None
    facts = check_strategy(GrowsLaterWithStrength())
    assert facts.weights is None
    controls = {type(arm.strategy).__name__ for arm in default_controls(Arm(GrowsLaterWithStrength()))}
    assert {"TemperatureMatched", "SignFlip", "GaussianProxy"} <= controls  # the branch counts as negative


@dataclass(frozen=True)
class ReadsOwnPromptOnly(VCD):
    """A strategy that cannot read the prompt of another sample, as the control `shuffled_negative` does."""

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        if "other" in prompt.key.query:
            raise PlanError("no image here.")
        return super().branches(prompt, note)


def test_a_strategy_whose_default_control_cannot_run_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"default control 'shuffled_negative\(vcd\)' fails: no image here"):
        check_strategy(ReadsOwnPromptOnly())


@pytest.mark.parametrize(
    ("strategy", "facts"),
    [
        (
            CED(),
            "2 branches, with a mask, weights 1, -1 (sum 0): identical branches give all surviving tokens equal scores",
        ),
        (RITUAL(), "2 branches, with a mask, weights 1, 3 (sum 4): identical branches decode at temperature 0.25"),
        (M3ID(beta=0.0), "2 branches, no mask, weights that vary from step to step"),
        (GreedyDecoding(), "1 branch, no mask, weights 1 (sum 1): identical branches decode as the reference"),
        (DoLa(), "1 branch, with a mask, weights that vary from step to step"),
        (CHASD(RITUAL()), "2 branches, with a mask, weights that vary from step to step"),
    ],
)
def test_facts_say_what_identical_branches_decode_as(strategy: Strategy, facts: str) -> None:
    assert check_strategy(strategy).describe() == facts


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (ListOfBranches(), "tuple"),
        (Random(), "pure function"),
        (EmptyMask(), "at least one must survive"),
        (FailsOnBannedTokens(), "banned"),
    ],
)
def test_a_default_control_is_checked_as_a_strategy_is(
    control: Strategy, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "_default_controls", lambda strategy: [Arm(GreedyDecoding()), Arm(control)])
    with pytest.raises(AssertionError, match=f"the default control '.*' fails: .*{message}"):
        check_strategy(VCD())
    monkeypatch.setattr(conformance, "_default_controls", lambda strategy: [Arm(GreedyDecoding())])
    check_strategy(VCD())


@dataclass(frozen=True)
class RoundedStrength(GrowsLater):
    """Weights of a large sum, and a strength that is off by a share of it."""

    error: float = 0.0

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return 30 * logits[0] - 20 * (step >= 8) * logits[1]

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.new_full((logits.shape[1], 1), (10.0 if step >= 8 else 30.0) * (1 + self.error))


def test_a_strength_may_be_off_by_a_hundredth_of_the_sum_of_the_weights() -> None:
    conformance._check_strength(RoundedStrength(error=0.008))
    with pytest.raises(AssertionError, match=r"strength\(\) is 30.6, but the weights of combine\(\) sum to 30"):
        conformance._check_strength(RoundedStrength(error=0.02))
