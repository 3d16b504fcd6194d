"""`check_strategy` refuses strategies that break its rules."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.base import Note, Strategy
from decoding.conformance import check_strategy
from decoding.strategies.vcd import VCD
from icl.edits import DiffusionNoise
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
    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, 1 - self.alpha


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
    ],
)
def test_a_broken_strategy_is_refused_with_the_reason(strategy: Strategy, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)


def test_facts_are_described_in_one_line() -> None:
    assert check_strategy(VCD(alpha=0.5)).describe() == (
        "2 branches, with a mask, weights 1.5, -0.5 (sum 1): identical branches decode as the reference"
    )
