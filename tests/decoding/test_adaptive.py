"""Methods whose weights vary: each formula by hand."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from decoding.base import Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.strategies.chasd import CHASD
from decoding.strategies.code import CODE, INSTRUCTION
from decoding.strategies.context_aware import CAD, COIECD, AdaCAD
from decoding.strategies.vcd import VCD
from decoding.strategies.without_image import M3ID
from icl.errors import PlanError
from icl.types import Part, Prompt
from tests.decoding.prompts import prompt

P = [0.9, 0.05, 0.05]
Q = [0.8, 0.1, 0.1]
OUT = -math.inf


def combined(strategy: Strategy, *shares: list[float], step: int = 0) -> list[float]:
    scores, faults = combine_branches(strategy, torch.tensor([shares]).transpose(0, 1).log(), step)
    assert not faults
    return scores[0].tolist()


def weighed(a: float, p: list[float] = P, q: list[float] = Q) -> list[float]:
    """(1 + a) ln p - a ln q."""
    return [(1 + a) * math.log(x) - a * math.log(y) for x, y in zip(p, q, strict=True)]


def test_the_m3id_contrast_grows_with_every_token() -> None:
    """decay ln 2: exp(decay t) - 1 is 1 at the first token (t = 1), 3 at the second, 7 at the third."""
    for step, weight in enumerate((1.0, 3.0, 7.0)):
        assert combined(M3ID(decay=math.log(2), beta=0), P, Q, step=step) == pytest.approx(weighed(weight), abs=1e-5)
    assert combined(M3ID(decay=math.log(2), beta=0, first_step=0), P, Q) == pytest.approx(weighed(0.0), abs=1e-5)


def test_m3id_has_no_contrast_above_its_threshold() -> None:
    assert combined(M3ID(decay=1.0, beta=0, threshold=0.5), P, Q) == pytest.approx(weighed(0.0), abs=1e-5)
    assert combined(M3ID(decay=math.log(2), beta=0, threshold=0.95), P, Q) == pytest.approx(weighed(1.0), abs=1e-5)


def test_adacad_is_weighted_by_the_divergence() -> None:
    """JSD(p, q) in nats, as in the test of divergences: .00997."""
    divergence = 0.5 * (0.9 * math.log(0.9 / 0.85) + 0.1 * math.log(0.05 / 0.075)) + 0.5 * (
        0.8 * math.log(0.8 / 0.85) + 0.2 * math.log(0.1 / 0.075)
    )
    assert combined(AdaCAD(), P, Q) == pytest.approx(weighed(divergence), abs=1e-5)
    assert combined(AdaCAD(floor=0.3), P, Q) == pytest.approx(weighed(0.3), abs=1e-5)


def test_code_is_weighted_and_masked_by_the_divergence() -> None:
    """kappa 1: D = .85 log2 1.1 + .15 log2 1.05 = .1274; the mask needs .1274 x .9 = .1147, and .05 is below."""
    divergence = 0.85 * math.log2(1.1) + 0.15 * math.log2(1.05)
    assert divergence == pytest.approx(0.1274, abs=1e-4)
    assert combined(CODE(kappa=1.0), P, Q) == pytest.approx([weighed(1 - divergence)[0], OUT, OUT], abs=1e-5)
    wide, near = [0.5, 0.3, 0.2], [0.45, 0.35, 0.2]
    divergence = 0.475 * math.log2(1.05) + 0.325 * math.log2(1.05)  # .0563; the mask asks for .0282
    assert combined(CODE(kappa=1.0), wide, near) == pytest.approx(weighed(1 - divergence, wide, near), abs=1e-5)


def test_code_masks_nothing_if_branches_agree_and_is_greedy_at_kappa_0() -> None:
    assert combined(CODE(), P, P) == pytest.approx([math.log(p) for p in P], abs=1e-5)
    assert combined(CODE(kappa=0.0), [0.4, 0.35, 0.25], Q)[1:] == [OUT, OUT]


class Describer:
    def __init__(self) -> None:
        self.questions: list[Prompt] = []

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        self.questions += prompts
        assert max_new_tokens == 512
        return [f"image of {prompt.images[0].origin}" for prompt in prompts]


def test_code_replaces_each_image_by_one_description() -> None:
    model, prompts = Describer(), [prompt(1, shots=1), prompt(1, shots=2), prompt(2)]
    notes = CODE().prepare(prompts, model)
    assert [p.text for p in model.questions] == [f"[user] <image>{INSTRUCTION}"] * 2
    original, described = CODE().branches(prompts[0], notes[0])
    assert original == prompts[0]
    assert described.text.endswith("[user] image of image 150What is number 1?")
    assert described.images == original.images[:1]
    model = Describer()
    notes = CODE(images="all").prepare(prompts[:1], model)
    assert CODE(images="all").branches(prompts[0], notes[0])[1].images == ()


def test_code_leaves_the_marks_of_the_image_slot_unless_asked_otherwise() -> None:
    note = {"query.image[0]": "a red square"}
    (slot,) = (part for part in CODE().branches(prompt(1), note)[1].parts() if part.name == "query.image[0]")
    assert (slot.text, slot.fills_image_slot) == ("a red square", True)
    without_marks = CODE(in_image_slot=False).branches(prompt(1), note)[1]
    assert not any(part.fills_image_slot for part in without_marks.parts())
    assert without_marks.text == CODE().branches(prompt(1), note)[1].text
    assert without_marks.digest != CODE().branches(prompt(1), note)[1].digest  # another prefill


def test_code_refuses_a_prompt_whose_query_has_no_named_image() -> None:
    nameless = prompt(1).map(lambda part: Part(part.content, "") if part.image else part)
    with pytest.raises(PlanError, match=r"this query has none\. Leave out queries without images"):
        CODE().branches(nameless)
    assert CODE(images="all").branches(nameless)[0] == nameless


def test_coiecd_contrasts_only_tokens_in_conflict() -> None:
    """(.6, .2, .12, .07, .01): above .6 / 4 = .15 are two, below .01 x 4 = .04 is one; .12 and .07 have no conflict."""
    p, q = [0.6, 0.2, 0.12, 0.07, 0.01], [0.2, 0.1, 0.3, 0.3, 0.1]
    conflict, calm = weighed(1.0, p, q), weighed(0.0, p, q)
    assert combined(COIECD(), p, q) == pytest.approx([*conflict[:2], *calm[2:4], conflict[4]], abs=1e-5)
    at_zero = [
        math.log(v) for v in (0.6, 0.2, 0.3, 0.3, 0.01)
    ]  # l(query) where there is no conflict, else the reference
    assert combined(COIECD(alpha=0.0), p, q) == pytest.approx(at_zero, abs=1e-5)


def test_coiecd_a_single_high_token_is_no_conflict() -> None:
    """(.9, .06, .03, .01): only .9 is above .225, so it is not; .03 and .01 are below .04."""
    p, q = [0.9, 0.06, 0.03, 0.01], [0.4, 0.3, 0.2, 0.1]
    conflict, calm = weighed(1.0, p, q), weighed(0.0, p, q)
    assert combined(COIECD(), p, q) == pytest.approx([*calm[:2], *conflict[2:]], abs=1e-5)


def test_a_closed_gate_leaves_the_reference_unchanged() -> None:
    method = VCD(alpha=1.0, beta=0.3)
    assert combined(CHASD(method, threshold=0.85), P, Q) == pytest.approx(weighed(0.0), abs=1e-5)  # no mask either
    assert combined(CHASD(method, threshold=0.95), P, Q) == pytest.approx(combined(method, P, Q), abs=1e-5)
    assert combined(method, P, Q)[1:] == [OUT, OUT]


def test_a_gate_decides_by_row() -> None:
    rows: Tensor = torch.tensor([[P, [0.5, 0.3, 0.2]], [Q, [0.4, 0.3, 0.3]]]).log()
    scores, _ = combine_branches(CHASD(CAD(alpha=1.0), threshold=0.8), rows, 0)
    assert scores[0].tolist() == pytest.approx(weighed(0.0), abs=1e-5)
    assert scores[1].tolist() == pytest.approx(weighed(1.0, [0.5, 0.3, 0.2], [0.4, 0.3, 0.3]), abs=1e-5)


def test_strength_is_the_temperature_of_identical_branches() -> None:
    rows = torch.tensor([[P], [P]]).log()
    for strategy in (M3ID(), AdaCAD(), CODE(), COIECD(), CHASD(VCD())):
        scores = strategy.combine(rows, 3)
        for a, b in pairwise([0, 1, 2]):
            if torch.isfinite(scores[0, [a, b]]).all():
                assert float(scores[0, a] - scores[0, b]) == pytest.approx(
                    float(rows[0, 0, a] - rows[0, 0, b]), abs=1e-5
                )
        assert strategy.strength(rows, 3).tolist() == [[1.0]]
