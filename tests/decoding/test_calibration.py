"""Calibrated option scores, by hand and in the engine."""

import math

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.controls.constant_bias import ConstantBias
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.strategies.calibration import BatchCalibration, ContextualCalibration
from decoding.strategies.prior_of_answer import PMI
from decoding.strategies.several_prompts import MoICL
from icl import edits
from icl.errors import ConfigError, PlanError
from icl.types import Generation, Part, Prompt, Turn
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

OPTIONS = ("w1", "w2 w3", "w4")


def logprobs(*shares: float) -> torch.Tensor:
    return torch.tensor([list(shares)]).log()


def test_pmi_by_hand() -> None:
    """.2 relative to .1 is twice as likely, .5 relative to .5 equally likely: log 2, log 1."""
    scores = PMI().combine(torch.stack([logprobs(0.2, 0.5), logprobs(0.1, 0.5)]), 0)
    assert scores[0].tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)


def test_pmi_reads_a_premise_without_image_and_demonstrations() -> None:
    first, premise = PMI(premise="So:").branches(prompt(1, shots=2))
    assert first == prompt(1, shots=2)
    assert premise.text == "[user] So:"
    with_demos = PMI(premise="So:", without="image").branches(prompt(1, shots=2))[1]
    assert with_demos.images == prompt(1, shots=2).images[:2]


def test_contextual_calibration_by_hand() -> None:
    """Shares .6 and .4; content-free .9/.1 and .7/.3, mean .8/.2: .6/.8 = .75 and .4/.2 = 2, so the second wins."""
    logits = (
        torch.stack([logprobs(0.6, 0.4), logprobs(0.9, 0.1), logprobs(0.7, 0.3)])
        + torch.tensor([3.0, -1.0, 0.5])[:, None, None]
    )
    scores = ContextualCalibration(texts=("a", "b")).combine(logits, 0)
    assert scores[0].exp().tolist() == pytest.approx([0.75, 2.0], abs=1e-5)


def test_content_free_queries_replace_the_query_only() -> None:
    question = prompt(1, shots=2)
    first, *free = ContextualCalibration().branches(question)
    assert first == question
    assert [one.turns[-1].parts[-1].text for one in free] == ["N/A", "[MASK]", ""]
    for one in free:
        assert one.turns[:-1] == question.turns[:-1]
        assert one.images[-1].edits == (edits.Blank(),)
    none = ContextualCalibration(image="none").branches(question)[1]
    assert none.images == question.images[:2]
    with pytest.raises(ConfigError, match="content-free"):
        ContextualCalibration(texts=())


def test_batch_calibration_by_hand() -> None:
    """.6 and .4 against priors .75 and .25: .8 and 1.6. At gamma 0 the prior does not matter."""
    scores = BatchCalibration(prior=(0.75, 0.25)).combine(logprobs(0.6, 0.4)[None], 0)
    assert scores[0].exp().tolist() == pytest.approx([0.8, 1.6], abs=1e-5)
    assert torch.equal(
        BatchCalibration((0.75, 0.25), gamma=0.0).combine(logprobs(0.6, 0.4)[None], 0), logprobs(0.6, 0.4)
    )
    fitted = BatchCalibration().fit(torch.stack([logprobs(0.9, 0.1), logprobs(0.6, 0.4)]), [])
    assert fitted.prior == (0.75, 0.25)


@pytest.mark.parametrize("behind", [80.0, 95.0, 104.0, 400.0])
def test_improbable_options_are_calibrated_without_underflow(behind: float) -> None:
    """Scores that equal the content-free scores cancel, however small the probabilities are."""
    far = torch.tensor([[0.0, -behind]])
    scores = ContextualCalibration(texts=("a", "b")).combine(torch.stack([far, far, far]), 0)
    assert scores[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-4)
    fitted = BatchCalibration().fit(far[None], [])
    assert fitted.combine(far[None], 0)[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-3)


def test_a_prior_keeps_its_digits_below_one_millionth() -> None:
    fitted = BatchCalibration().fit(logprobs(1 - 3.25e-8, 3.25e-8)[None].double(), [])
    assert fitted.prior[1] == pytest.approx(3.25e-8, rel=1e-4)


@pytest.mark.parametrize("name", ["pmi", "contextual_calibration", "batch_calibration"])
def test_whole_options_combine_the_scores_of_single_branches(name: str) -> None:
    model, arm = Toy(), parse_arm({"name": name, "normalize": "mean"})
    greedy = parse_arm({"name": "greedy", "normalize": "mean"})
    questions = [prompt(i, shots=i % 3) for i in range(4)]
    answers = run_requests(model, [DecodingRequest(p, arm, OPTIONS, "options") for p in questions])
    for question, answer in zip(questions, answers, strict=True):
        assert isinstance(answer, Generation)
        rows = []
        for branch in arm.strategy.branches(question):
            (plain,) = run_requests(model, [DecodingRequest(branch, greedy, OPTIONS, "options")])
            assert isinstance(plain, Generation)
            rows.append([list(plain.option_scores.values())])
        expected = arm.strategy.combine(torch.tensor(rows), 0).log_softmax(-1)
        assert list(answer.option_scores.values()) == pytest.approx(expected[0].tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["pmi", "contextual_calibration", "batch_calibration"])
def test_strategies_for_option_scoring_generate_no_text(name: str) -> None:
    (answer,) = run_requests(Toy(), [DecodingRequest(prompt(1), parse_arm(name))])
    assert isinstance(answer, Failure)
    assert "answer_mode: options" in answer.reason


@pytest.mark.parametrize("strategy", [PMI(), ContextualCalibration()])
def test_a_query_without_a_question_is_refused(strategy: PMI | ContextualCalibration) -> None:
    bare = Prompt((Turn("user", (Part(prompt(1).images[-1], "query.image[0]"), Part("hm"))),))
    with pytest.raises(PlanError, match=r"query\.question"):
        strategy.branches(bare)


def test_an_arm_has_a_normalization() -> None:
    model, options = Toy(), ("w1", "w2 w10 w3")
    arms = [parse_arm({"name": "vcd", "normalize": how}) for how in ("sum", "mean", "bytes")]
    assert [arm.label for arm in arms] == ["vcd", "vcd, normalize=mean", "vcd, normalize=bytes"]
    assert len({arm.digest for arm in arms}) == 3
    assert arms[0].digest == parse_arm("vcd").digest
    total, mean, byte = (
        answer.option_scores["w2 w10 w3"]
        for answer in run_requests(model, [DecodingRequest(prompt(1), arm, options, "options") for arm in arms])
        if isinstance(answer, Generation)
    )
    assert (mean, byte) == pytest.approx((total / 3, total / 9))
    with pytest.raises(ConfigError, match=r"x: d.normalize: .*Did you mean 'bytes'"):
        parse_arm({"name": "vcd", "normalize": "byte"}, "x: d")


def test_a_prior_needs_no_labels_and_weights_and_biases_do() -> None:
    assert not BatchCalibration.needs_labels
    assert ConstantBias.needs_labels
    assert MoICL.needs_labels
