import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.base import Note, Strategy
from decoding.conformance import check_strategy, made_up
from decoding.controls.entropy_matched import EntropyMatched
from decoding.controls.mask_only import MaskOnly
from decoding.controls.temperature_matched import TemperatureMatched
from decoding.divergences import entropy
from decoding.probe import strength_of
from decoding.sampling import Sampling
from decoding.step import scores
from decoding.strategies.sampling import SamplingDecoding
from decoding.strategies.vcd import VCD
from icl import edits
from icl.errors import ConfigError
from icl.types import Prompt
from tests.decoding.prompts import prompt


@dataclass(frozen=True)
class Weighted(Strategy):
    """Two branches with any weights, undeclared."""

    first: float = 1.0
    second: float = 0.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, prompt.edit(edits.Blank())

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return self.first * logits[0] + self.second * logits[1]


@dataclass(frozen=True)
class MasksByAll(Weighted):
    """Rules out what the second branch likes best."""

    masks_in_combine = True

    def combine(self, logits: Tensor, step: int) -> Tensor:
        worst = logits[1] == logits[1].amax(-1, keepdim=True)
        return super().combine(logits, step).masked_fill(worst, -math.inf)


@dataclass(frozen=True)
class Winner(Weighted):
    """The more confident branch counts alone, with its confidence as weight: the sum varies by row."""

    weights = None  # type: ignore[assignment]

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.softmax(-1).amax(-1).amax(0)[:, None]

    def combine(self, logits: Tensor, step: int) -> Tensor:
        confidence = logits.softmax(-1).amax(-1)
        best = confidence.argmax(0)
        return self.strength(logits, step) * logits[best, torch.arange(logits.shape[1])]


def test_mask_only_is_the_methods_mask_on_the_references_scores() -> None:
    logits, method = made_up(2), VCD(alpha=2.0, beta=0.2)
    own, _ = scores(method, logits, 0)
    control, _ = scores(MaskOnly(method), logits[:1], 0)
    alive = own > -math.inf
    assert torch.equal(control > -math.inf, alive)
    assert torch.equal(control[alive], logits[0][alive])
    assert not torch.equal(own[alive], control[alive])


def test_controls_read_the_reference_alone_where_they_can() -> None:
    question = prompt(1)
    assert [b.digest for b in MaskOnly(VCD()).branches(question)] == [question.digest]
    assert len(TemperatureMatched(VCD()).branches(question)) == 1
    assert len(EntropyMatched(VCD()).branches(question)) == 2
    assert len(MaskOnly(MasksByAll()).branches(question)) == 2


def test_a_mask_that_reads_other_branches_keeps_reading_them() -> None:
    logits = made_up(2)
    control = MaskOnly(MasksByAll(first=3.0, second=-1.0))
    own, _ = scores(control, logits, 0)
    out = logits[1] == logits[1].amax(-1, keepdim=True)
    assert torch.equal(own, logits[0].masked_fill(out, -math.inf))
    check_strategy(control)


@pytest.mark.parametrize(("first", "second", "strength"), [(2, -1, 1), (1, 3, 4), (1.5, -1, 0.5)])
def test_temperature_matched_is_the_reference_at_the_hidden_temperature(
    first: float, second: float, strength: float
) -> None:
    logits, control = made_up(1), TemperatureMatched(Weighted(first, second))
    own, _ = scores(control, logits, 0)
    torch.testing.assert_close(own.softmax(-1), (logits[0] / (1 / strength)).softmax(-1), rtol=2e-3, atol=1e-5)


def test_temperature_matched_keeps_the_mask() -> None:
    logits, method = made_up(2), VCD(beta=0.3)
    own, _ = scores(TemperatureMatched(method), logits[:1], 0)
    assert torch.equal(own > -math.inf, scores(method, logits, 0)[0] > -math.inf)


def test_temperature_matched_follows_a_strength_that_varies() -> None:
    logits, method = made_up(2), Winner()
    assert strength_of(method) is None
    own, _ = scores(TemperatureMatched(method), logits, 0)
    torch.testing.assert_close(own, logits[0] * method.strength(logits, 0))


@pytest.mark.parametrize("second", [-1.0, -1.5])
def test_a_strength_of_zero_or_less_is_an_error_that_names_what_to_use(second: float) -> None:
    with pytest.raises(ConfigError, match="entropy_matched"):
        TemperatureMatched(Weighted(1.0, second))


def test_entropy_matched_has_the_methods_entropy_and_support_at_each_row() -> None:
    logits, method = made_up(2, scale=2.0), VCD(alpha=2.5, beta=0.02)
    own, _ = scores(method, logits, 0)
    control, _ = scores(EntropyMatched(method), logits, 0)
    alive = own > -math.inf
    assert torch.equal(control > -math.inf, alive)
    torch.testing.assert_close(entropy(control), entropy(own), rtol=1e-3, atol=1e-3)
    slopes = (control / logits[0]).masked_fill(~alive, math.nan)
    for row in slopes:
        assert float(row[~row.isnan()].std()) < 1e-3 * float(row[~row.isnan()].mean())  # a temperature and nothing else


def test_entropy_matched_is_defined_where_the_weights_sum_to_zero() -> None:
    logits = made_up(2)
    flat = torch.stack([logits[0], logits[0]])
    control, _ = scores(EntropyMatched(Weighted(1.0, -1.0)), flat, 0)
    assert float(entropy(control).min()) == pytest.approx(math.log(logits.shape[-1]), abs=1e-3)


def test_controls_sample_as_their_method_does() -> None:
    sampled = SamplingDecoding(temperature=0.7)
    assert MaskOnly(sampled).sampler == Sampling(temperature=0.7)


def test_weights_are_measured_where_they_are_not_declared() -> None:
    facts = check_strategy(Weighted(1.5, -0.5))
    assert facts.weights == pytest.approx((1.5, -0.5))
    assert facts.strength == pytest.approx(1.0)
    assert check_strategy(Winner()).weights is None
