"""Methods with constant weights: each formula by hand, and how its branches differ."""

import math

import pytest
import torch
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.base import Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.strategies.context_aware import CAD
from decoding.strategies.icd import DISTURBANCE, ICD
from decoding.strategies.prior_of_answer import CDK, CED
from decoding.strategies.ritual import RITUAL
from decoding.strategies.vdd import VDD, VDDPostHoc
from decoding.strategies.without_image import CFG, CRG, PAI
from icl.edits import DiffusionNoise, RandomAugmentation, RegionMask
from icl.errors import ConfigError, PlanError
from tests.decoding.prompts import prompt

REFERENCE = torch.tensor([[2.0, 1.5, 1.0, -1.0]])
OTHER = torch.tensor([[2.5, 0.5, 1.0, -9.0]])
OUT = -math.inf


def combined(strategy: Strategy, *others: Tensor) -> list[float]:
    """Up to a constant: the third token scores as in logits space, where z = z' = 1."""
    scores, faults = combine_branches(strategy, torch.stack([REFERENCE, *others]), 0)
    assert not faults
    return scores[0].tolist()


def shifted(values: list[float], third: float) -> list[float]:
    return [value - values[2] + third for value in values]


@pytest.mark.parametrize(
    ("strategy", "by_hand"),
    [
        # 2 z - z' = 2(2) - 2.5, 2(1.5) - .5, 2 - 1; exp(-3) = .0498 of the best probability is below .1
        (ICD(alpha=1.0, beta=0.1), [1.5, 2.5, 1.0, OUT]),
        # 1.5 z - .5 z' = 3 - 1.25, 2.25 - .25, 1.5 - .5, -1.5 + 4.5, and no mask
        (CAD(alpha=0.5), [1.75, 2.0, 1.0, 3.0]),
        (CFG(gamma=1.5), [1.75, 2.0, 1.0, 3.0]),
        (CRG(alpha=0.5), [1.75, 2.0, 1.0, 3.0]),
        # 2 (z - z') + z' = 2 z - z'
        (PAI(gamma=2.0), [1.5, 2.5, 1.0, OUT]),
        # z + 3 z' = 2 + 7.5, 1.5 + 1.5, 1 + 3
        (RITUAL(), [9.5, 3.0, 4.0, OUT]),
        # z - z' = -.5, 1, 0
        (CED(), [-0.5, 1.0, 0.0, OUT]),
        # the same; the second best has 1.5, and exp(-.5) = .607 of its probability is below .7: two are left
        (CDK(alpha=0.7, k=2), [-0.5, 1.0, OUT, OUT]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Strategy) else "",
)
def test_scores_by_hand(strategy: Strategy, by_hand: list[float]) -> None:
    scores = combined(strategy, OTHER)
    third = by_hand[2] if math.isfinite(by_hand[2]) else by_hand[1]
    place = 2 if math.isfinite(by_hand[2]) else 1
    assert [value - scores[place] + third for value in scores] == pytest.approx(by_hand, abs=1e-5)


def test_pai_without_guidance_is_the_reference_under_the_mask() -> None:
    """At gamma 1 the released code drops the mask; here it remains: exp(-3) of the best is below .1."""
    assert combined(PAI(gamma=1.0), OTHER)[3] == OUT
    assert math.isfinite(combined(PAI(gamma=1.0, beta=0.0), OTHER)[3])


def test_vdd_averages_its_priors_by_hand() -> None:
    """1.5 z - .5 (z' + z'') / 2, z'' = 0: 3 - .625, 2.25 - .125, 1.5 - .25; the last is masked."""
    scores = combined(VDD(alpha=0.5), OTHER, torch.zeros(1, 4))
    assert scores == pytest.approx([2.375, 2.125, 1.25, OUT])
    assert VDD(alpha=0.5).weights == (1.5, -0.25, -0.25)


def test_vdd_post_hoc_divides_by_the_prior_by_hand() -> None:
    """(.6, .3, .1) by (.8, .1, .1) + .1 is (.667, 1.5, .5): shares .25, .5625, .1875."""
    original, imageless = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.8, 0.1, 0.1]]).log()
    probabilities = VDDPostHoc(smoothing=0.1).combine(torch.stack([original, imageless]), 0).softmax(-1)
    assert probabilities[0].tolist() == pytest.approx([0.25, 0.5625, 0.1875], abs=1e-5)


def test_vdd_post_hoc_averages_priors_as_probabilities() -> None:
    """The priors (.8, .2) and (.4, .6) are (.6, .4) together; log-probabilities would give (.62, .38)."""
    priors = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()
    probabilities = VDDPostHoc(smoothing=1e-9).combine(torch.cat([torch.zeros(1, 1, 2), priors]), 0).softmax(-1)
    assert probabilities[0].tolist() == pytest.approx([0.4, 0.6], abs=1e-5)


def test_a_k_larger_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(PlanError, match="Use a smaller k"):
        combined(CDK(k=5), OTHER)


def test_the_defaults_of_cd_k_leave_a_certain_answer() -> None:
    """The other branch also prefers the answer, so the difference alone chooses another token."""
    certain = torch.tensor([[[12.0, 2.0, 1.0, 0.5, 0.0, -1.0]], [[12.0, 1.0, 2.0, 1.5, 1.0, -3.0]]])

    def chosen(strategy: CDK) -> int:
        scores, mask = strategy.combine(certain, 0), strategy.mask(certain[0])
        return int((scores if mask is None else scores.masked_fill(~mask, -torch.inf)).argmax())

    assert chosen(CDK()) == 0
    assert chosen(CDK(k=5)) != 0


def test_branches_differ_as_in_the_paper_only() -> None:
    question = prompt(1, shots=2)
    assert ICD().branches(question)[1].text == question.text.replace("What is number", f"{DISTURBANCE}What is number")
    assert ICD().branches(question)[1].images == question.images
    bare = "[user] <image>What is number 1?"
    assert {s.branches(question)[1].text for s in (CAD(), CED())} == {bare}
    for strategy in (CFG(), PAI(), CDK(), VDD(prior="none"), VDDPostHoc(), CAD(without="image")):
        branch = strategy.branches(question)[1]
        assert branch.images == question.images[:2]
        assert branch.text == question.text.replace("<image>What is number", "What is number")


def test_only_images_of_the_query_are_edited() -> None:
    question = prompt(1, shots=2)
    for strategy, kind in ((CRG(), RegionMask), (RITUAL(), RandomAugmentation), (VDD(prior="noise"), DiffusionNoise)):
        branch = strategy.branches(question)[1]
        assert branch.images[:2] == question.images[:2]
        assert [type(edit) for edit in branch.images[2].edits] == [kind]
    assert len(VDD().branches(question)) == 3


def test_the_masked_region_is_a_parameter() -> None:
    left = CRG(region=(0.0, 0.0, 0.5, 1.0)).branches(prompt(1))[1].images[-1].open()
    assert left.getpixel((0, 0)) == (1, 1, 1)
    assert left.getpixel((31, 0)) == prompt(1).images[-1].open().getpixel((31, 0))
    with pytest.raises(ConfigError, match="left < right"):
        parse_arm({"name": "crg", "region": [0.5, 0, 0.5, 1]})


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"name": "cad", "alpha": -1}, "alpha"),
        ({"name": "cfg", "without": "text"}, "without"),
        ({"name": "cd_k", "k": 0}, "k"),
        ({"name": "crg", "region": [0, 0, 2, 1]}, "region"),
        ({"name": "vdd", "prior": "unk"}, "prior"),
    ],
)
def test_parameters_out_of_bounds_are_refused(node: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_arm(node)
