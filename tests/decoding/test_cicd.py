"""Contrast with another sample's image: the branch, the factor of the contrast by hand, and what is refused."""

from dataclasses import replace
from math import log

import pytest
import torch

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.strategies.reconstructions.cicd import CICD
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy


def test_only_the_query_has_the_image_of_the_other_query() -> None:
    own = prompt(1, shots=2)
    assert own.paired_prompt is not None
    reference, other = CICD().branches(own)
    assert reference is own
    assert other.text == own.text
    assert other.images[:-1] == own.images[:-1]
    assert other.images[-1] == own.paired_prompt.images[-1] != own.images[-1]


@pytest.mark.parametrize("select", ["none", "difference", "agreement"])
def test_the_contrast_is_scaled_by_the_divergence_in_bits(select: str) -> None:
    """d of (.8, .2) and (.4, .6) by hand: H(.6, .4) - (H(.8, .2) + H(.4, .6)) / 2."""

    def bits(*probabilities: float) -> float:
        return -sum(p * log(p, 2) for p in probabilities)

    d = bits(0.6, 0.4) - (bits(0.8, 0.2) + bits(0.4, 0.6)) / 2
    a = 1.5 * {"none": 1, "difference": d, "agreement": 1 - d}[select]
    logits = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()
    scores = CICD(alpha=1.5, select=select).combine(logits, 0)[0]  # type: ignore[arg-type]
    expected = [(1 + a) * log(0.8) - a * log(0.4), (1 + a) * log(0.2) - a * log(0.6)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_disjoint_distributions_differ_fully() -> None:
    logits = torch.tensor([[[9.0, -90.0]], [[-90.0, 9.0]]])
    assert torch.allclose(CICD().combine(logits, 0), CICD(select="none").combine(logits, 0))
    assert torch.allclose(CICD(select="agreement").combine(logits, 0), logits[0])


def test_a_prompt_without_another_sample_is_refused_in_a_sentence() -> None:
    (failure,) = run_requests(Toy(), [DecodingRequest(replace(prompt(1), paired_prompt=None), Arm(CICD()))])
    assert "'cicd' shows the image of another sample's query, and no other sample has one." in str(failure)
    (answer,) = run_requests(Toy(), [DecodingRequest(prompt(1), Arm(CICD()), max_new_tokens=3)])
    assert isinstance(answer, Generation)


def test_its_negative_is_of_another_sample_already() -> None:
    controls = [type(arm.strategy).component[1] for arm in default_controls(parse_arm("cicd"))]
    assert "sign_flip" in controls
    assert "shuffled_negative" not in controls
