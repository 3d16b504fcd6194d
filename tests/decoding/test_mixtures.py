"""Mixtures of separate prompts, by hand: NBCE, MoICL and X-MoRe."""

import math

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.base import InitialStepState
from decoding.engine.decoding_step import combine_branches
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.strategies.several_prompts import NBCE, MoICL
from decoding.strategies.xmore import XMoRe
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

WHOLE = [0.2, 0.2, 0.6]  # the plain prompt: has no weight
FIRST = [0.6, 0.3, 0.1]  # entropy .8979
SECOND = [0.8, 0.1, 0.1]  # entropy .6390
EMPTY = [0.5, 0.25, 0.25]


def rows(*shares: list[float]) -> torch.Tensor:
    return torch.tensor(shares)[:, None].log()


def test_nbce_uses_the_window_of_minimal_entropy() -> None:
    """1.25 ln (.8, .1, .1) - .25 ln (.5, .25, .25)."""
    scores = NBCE(top_p=1.0).combine(rows(WHOLE, FIRST, SECOND, EMPTY), 0)[0].tolist()
    by_hand = [1.25 * math.log(p) - 0.25 * math.log(q) for p, q in zip(SECOND, EMPTY, strict=True)]
    assert scores == pytest.approx(by_hand, abs=1e-5)


def test_nbce_prefers_the_window_of_the_step_before() -> None:
    """.8979 - .3 = .5979 is below .6390; .8979 - .25 = .6479 is not. The first step has no window before it."""
    logits = rows(WHOLE, FIRST, SECOND, EMPTY)
    for eta, window in ((0.3, FIRST), (0.25, SECOND)):
        state = InitialStepState(memory={4: 0})
        scores = NBCE(beta=0.0, top_p=1.0, eta=eta).combine_stateful(logits, 5, [state])
        assert scores[0].exp().tolist() == pytest.approx(window, abs=1e-5)
        assert state.memory[5] == [FIRST, SECOND].index(window)
        again = NBCE(beta=0.0, top_p=1.0, eta=eta).combine_stateful(logits, 5, [state])
        assert torch.equal(again, scores)
    scores = NBCE(beta=0.0, top_p=1.0, eta=9.0).combine_stateful(logits, 5, [InitialStepState()])
    assert scores[0].exp().tolist() == pytest.approx(SECOND, abs=1e-5)


def test_nbce_uses_the_window_alone_if_the_empty_context_has_no_mass() -> None:
    """top-p .7: of (.8, .1, .1) the first token is left, of (.4, .35, .25) the first two."""
    scores = NBCE(top_p=0.7).combine(rows(WHOLE, [0.4, 0.35, 0.25], [0.8, 0.1, 0.1]), 0)[0].tolist()
    both = 1.25 * math.log(0.4) - 0.25 * math.log(0.8)
    assert scores == pytest.approx([both, math.log(0.35), -math.inf], abs=1e-5)


def test_nbce_averages_windows_with_mean_pooling() -> None:
    """beta = n - 1 = 1: 2 (ln a + ln b) / 2 - ln q is Bayes' rule for two independent windows."""
    scores = NBCE(beta=1.0, pooling="mean").combine(rows(WHOLE, FIRST, SECOND, EMPTY), 0)[0].softmax(-1).tolist()
    bayes = [a * b / q for a, b, q in zip(FIRST, SECOND, EMPTY, strict=True)]
    assert scores == pytest.approx([v / sum(bayes) for v in bayes], abs=1e-5)


def test_branches_are_the_prompt_its_windows_and_the_query_alone() -> None:
    branches = NBCE(windows=2).branches(prompt(1, shots=3))
    assert [len(b.images) for b in branches] == [4, 2, 3, 1]
    assert [len(b.images) for b in NBCE().branches(prompt(1, shots=0))] == [1, 1, 1]
    assert [len(b.images) for b in MoICL().branches(prompt(1, shots=3))] == [4, 2, 2, 2]


def test_without_demonstrations_it_is_the_reference() -> None:
    logits = rows(FIRST, FIRST, FIRST)
    assert NBCE(top_p=1.0).combine(logits, 0)[0].exp().tolist() == pytest.approx(FIRST, abs=1e-5)


def test_the_window_of_the_last_step_is_stored() -> None:
    """With a large eta the window of the first token decides the whole answer."""
    model, question = Toy(vocabulary=12, stop_bias=-99.0), prompt(5, shots=4)
    sticky = {"name": "nbce", "beta": 0.0, "top_p": 1.0, "eta": 100.0}
    (answer,) = run_requests(model, [DecodingRequest(question, parse_arm(sticky), max_new_tokens=8)])
    first = NBCE(top_p=1.0)
    state = InitialStepState()
    first.combine_stateful(model.open(first.branches(question)).logits[:, None], 0, [state])
    window = first.branches(question)[1 + state.memory[0]]
    (alone,) = run_requests(model, [DecodingRequest(window, parse_arm("greedy"), max_new_tokens=8)])
    (free,) = run_requests(model, [DecodingRequest(question, parse_arm({**sticky, "eta": 0.0}), max_new_tokens=8)])
    assert isinstance(answer, Generation)
    assert isinstance(alone, Generation)
    assert isinstance(free, Generation)
    assert answer.tokens == alone.tokens
    assert answer.tokens != free.tokens


def test_each_option_has_a_step_state_of_its_own() -> None:
    model, question = Toy(vocabulary=12), prompt(5, shots=4)
    arm = parse_arm({"name": "nbce", "beta": 0.0, "top_p": 1.0, "eta": 100.0})
    options = ("w3 w4", "w5 w6", "w7")
    (answer,) = run_requests(model, [DecodingRequest(question, arm, options, "options")])
    state = InitialStepState()
    NBCE(top_p=1.0).combine_stateful(model.open(NBCE().branches(question)).logits[:, None], 0, [state])
    window = NBCE().branches(question)[1 + state.memory[0]]
    (alone,) = run_requests(model, [DecodingRequest(window, parse_arm("greedy"), options, "options")])
    assert isinstance(answer, Generation)
    assert isinstance(alone, Generation)
    assert answer.option_scores == pytest.approx(alone.option_scores, abs=1e-5)


def test_moicl_mixes_log_probabilities_by_hand() -> None:
    """Equal: (ln .6 + ln .8) / 2 and so on. With (2, -1): 2 ln a - ln b, where the second is an anti-expert."""
    logits = rows(WHOLE, FIRST, SECOND)
    equal = [(math.log(a) + math.log(b)) / 2 for a, b in zip(FIRST, SECOND, strict=True)]
    assert MoICL().combine(logits, 0)[0].tolist() == pytest.approx(equal, abs=1e-5)
    anti = [2 * math.log(a) - math.log(b) for a, b in zip(FIRST, SECOND, strict=True)]
    assert MoICL(group_weights=(2.0, -1.0)).combine(logits, 0)[0].tolist() == pytest.approx(anti, abs=1e-5)


def test_top_k_uses_the_largest_weights_without_renormalization() -> None:
    assert MoICL(group_weights=(0.2, -0.7, 0.4), top_k=2).effective_weights(3) == (0.0, -0.7, 0.4)
    assert MoICL(top_k=1).effective_weights(4) == (0.25, 0.0, 0.0, 0.0)
    assert MoICL(group_weights=(0.2, -0.7, 0.4)).strength(rows(WHOLE, FIRST, SECOND, EMPTY), 0).item() == pytest.approx(
        -0.1
    )


def test_group_weights_have_the_key_weights() -> None:
    arm = parse_arm({"name": "moicl", "weights": [0.5, 0.25]})
    assert arm.strategy == MoICL(group_weights=(0.5, 0.25))
    assert arm.label == "moicl(weights=[0.5, 0.25])"
    assert len(arm.strategy.branches(prompt(1, shots=6))) == 3


def test_xmore_weights_views_by_confidence() -> None:
    """H(.9, .1) = .3251, H(.5, .5) = .6931: weights .7225 and .5, so .5910 and .4090; .591 x .9 + .409 x .5 = .7364."""
    scores, _ = combine_branches(XMoRe(), rows([0.2, 0.8], [0.9, 0.1], [0.5, 0.5]), 0)
    assert scores[0].exp().tolist() == pytest.approx([0.7364, 0.2636], abs=1e-4)
    # by 1 / H: 3.0761 and 1.4427, so .6807; by confidence: .9 and .5, so .6429
    for by, share in (("inverse", 0.6807), ("confidence", 0.6429)):
        scores, _ = combine_branches(XMoRe(by=by), rows([0.2, 0.8], [0.9, 0.1], [0.5, 0.5]), 0)  # type: ignore[arg-type]
        assert scores[0].exp().tolist()[0] == pytest.approx(share * 0.9 + (1 - share) * 0.5, abs=1e-4)


def test_views_of_xmore_are_image_and_demonstrations() -> None:
    whole, alone, with_demos = XMoRe().branches(prompt(1, shots=2))
    assert whole == prompt(1, shots=2)
    assert alone.text == "[user] <image>What is number 1?"
    assert with_demos.images == whole.images[:2]
