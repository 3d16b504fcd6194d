"""DoLa by hand, and on models with and without hidden states."""

import math

import pytest
import torch

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.arms.requirements import unsupported_reason
from decoding.engine.decoding_step import combine_branches
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.formulas.distributions import jensen_shannon, reversed_jensen_shannon
from decoding.strategies.dola import DoLa
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits [n, 1, V] of probabilities."""
    return torch.tensor(rows)[:, None].log()


LAST, NEAR, FAR = [0.6, 0.35, 0.05], [0.5, 0.45, 0.05], [0.1, 0.1, 0.8]


def test_the_layer_that_differs_most_is_subtracted_by_hand() -> None:
    """JSD of NEAR is .005, of FAR .35: log .6/.1 = log 6, log .35/.1; .05 is below .1 of .6 and masked."""
    scores, _ = combine_branches(DoLa(layers="all"), logits_of(LAST, NEAR, FAR), 0)
    assert scores[0].tolist() == pytest.approx([math.log(6), math.log(3.5), -math.inf])


def test_each_row_chooses_its_own_layer() -> None:
    logits = torch.cat([logits_of(LAST, NEAR, FAR), logits_of(LAST, FAR, NEAR)], 1)
    scores, _ = combine_branches(DoLa(layers="all", beta=0.0), logits, 0)
    torch.testing.assert_close(scores[0], scores[1])


def test_half_of_the_layers_are_candidates() -> None:
    logits = logits_of(LAST, FAR, NEAR, NEAR, NEAR)
    low, high = (DoLa(layers=layers, beta=0.0).combine(logits, 0)[0] for layers in ("low", "high"))  # type: ignore[arg-type]
    assert low.tolist() == pytest.approx([math.log(6), math.log(3.5), math.log(0.05 / 0.8)])
    assert high.tolist() == pytest.approx([math.log(0.6 / 0.5), math.log(0.35 / 0.45), 0.0], abs=1e-6)
    five = logits_of(LAST, NEAR, NEAR, FAR, FAR, NEAR)  # of five layers two are low
    assert torch.equal(DoLa(layers="low").combine(five, 0), DoLa(layers="all").combine(five[:3], 0))


def test_two_early_layers_are_a_low_and_a_high_one_and_a_single_one_is_both() -> None:
    two, one = logits_of(LAST, NEAR, FAR), logits_of(LAST, FAR)
    last, near, far = (row.log_softmax(-1) for row in two)
    for which, expected in (("low", near), ("high", far)):
        assert torch.equal(DoLa(which, 0.0).combine(two, 0), last - expected)  # type: ignore[arg-type]
        assert torch.equal(DoLa(which, 0.0).combine(one, 0), last - far)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "low", "high"),  # the released commands: --early-exit-layers, without the last layer
    [
        (32, range(0, 16, 2), range(16, 32, 2)),
        (40, range(0, 20, 2), range(20, 40, 2)),
        (60, range(0, 20, 2), range(40, 60, 2)),
        (80, range(0, 20, 2), range(60, 80, 2)),
    ],
)
def test_the_candidates_are_those_of_the_released_commands(layers: int, low: range, high: range) -> None:
    """The layer that differs most is found within the bucket only: each layer in turn is the one that differs."""
    last, near, far = logits_of(LAST, NEAR, FAR)
    even = range(0, layers, 2)

    def is_candidate(which: str, layer: int) -> bool:
        early = [far if other == layer else near for other in even]
        scores = DoLa(which, 0.0).combine(torch.stack([last, *early]), 0)  # type: ignore[arg-type]
        return torch.equal(scores, last.log_softmax(-1) - far.log_softmax(-1))

    assert [layer for layer in even if is_candidate("low", layer)] == list(low)
    assert [layer for layer in even if is_candidate("high", layer)] == list(high)


def test_the_first_of_equal_layers_is_chosen() -> None:
    swapped = [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]  # as far from a LAST that does not tell them apart
    logits = logits_of([0.4, 0.3, 0.3], *swapped)
    scores = DoLa(layers="all", beta=0.0).combine(logits, 0)[0]
    assert float(scores[1]) == pytest.approx(math.log(0.3 / 0.8))


def test_the_released_divergence_by_hand() -> None:
    """m = (.5, .5): of (.9, .1) and (.1, .9) each, KL(m || p) = .5 log(.5/.9) + .5 log(.5/.1) = .5108."""
    p, q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.1, 0.9]]).log()
    assert float(reversed_jensen_shannon(p, q)) == pytest.approx(0.5 * math.log(5 / 9) + 0.5 * math.log(5))
    assert float(jensen_shannon(p, q)) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    r = torch.tensor([[0.5, 0.5]]).log()  # m = (.7, .3), and the two divergences from it differ
    expected = 0.5 * sum(0.7 * math.log(0.7 / one) + 0.3 * math.log(0.3 / (1 - one)) for one in (0.9, 0.5))
    assert float(reversed_jensen_shannon(p, r)) == pytest.approx(expected)


def test_the_two_divergences_may_choose_different_layers() -> None:
    """A token that a layer rules out counts without bound in the released one (.8), not in the paper's (.018)."""
    layers = logits_of([0.9, 0.05, 0.05], [0.7, 0.15, 0.15], [0.95, 1e-30, 0.05])
    paper, released = (DoLa("all", 0.0, how).combine(layers, 0)[0] for how in ("jensen_shannon", "released"))  # type: ignore[arg-type]
    assert float(paper[0]) == pytest.approx(math.log(0.9 / 0.7))
    assert float(released[0]) == pytest.approx(math.log(0.9 / 0.95))


def test_surviving_tokens_score_equally_if_layers_agree() -> None:
    scores, _ = combine_branches(DoLa(), logits_of(LAST, LAST, LAST), 0)
    assert scores[0].tolist() == pytest.approx([0.0, 0.0, -math.inf], abs=1e-6)


def test_it_shares_the_rows_of_the_reference() -> None:
    model = Toy(stop_bias=-9.0)
    requests = [
        DecodingRequest(prompt(i), parse_arm(name), max_new_tokens=4) for i in range(3) for name in ("greedy", "dola")
    ]
    together = run_requests(model, requests)
    assert model.counts["prompts"] == 3
    assert together == [run_requests(Toy(stop_bias=-9.0), [request])[0] for request in requests]
    assert any(isinstance(b, Generation) and a != b for a, b in zip(together[::2], together[1::2], strict=True))


def test_a_model_without_hidden_states_is_refused_with_the_fallback() -> None:
    problem = unsupported_reason(parse_arm("dola"), {"logits"})
    assert problem is not None
    assert "decoding 'dola' needs hidden states, which this model cannot give (it gives logits)" in problem
    assert "'ced', which is most similar, runs on it" in problem
    assert "'dola' runs with model hf." in problem
    assert unsupported_reason(parse_arm("dola"), {"logits", "hidden_states"}) is None
    assert unsupported_reason(parse_arm({"name": "sign_flip", "of": "dola"}), {"logits"}) is not None
    assert unsupported_reason(parse_arm({"name": "chasd", "method": "dola"}), {"strategies"}) is not None


def test_controls_read_early_layers_if_needed() -> None:
    controls = {arm.strategy.component[1]: arm.strategy for arm in default_controls(parse_arm("dola"))}  # type: ignore[attr-defined]
    assert {"mask_only", "entropy_matched", "gaussian_proxy", "sign_flip"} < set(controls)
    assert "shuffled_negative" not in controls  # there is no other prompt
    assert (controls["mask_only"].traits.reads_early_exits, controls["sign_flip"].traits.reads_early_exits) == (
        False,
        True,
    )
    model, arm = Toy(), Arm(controls["sign_flip"])
    (answer,) = run_requests(model, [DecodingRequest(prompt(1), arm, ("w1", "w2 w3"), "options")])
    assert isinstance(answer, Generation), answer
