"""Step traces compared with values computed from the logits of each branch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.base import InitialStepState, Strategy
from decoding.engine import hypotheses, trace
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from decoding.engine.trace import serialize_step_traces, step_weights, trace_branches
from decoding.engine.trace_precision import BATCH_ERROR, round_nats, round_probabilities
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.toy import STOP, Toy

TOP = 3


def answers(model: Any, arm: Any, prompts: Sequence[Prompt], top: int = TOP, new: int = 6) -> list[Generation]:
    results = run_requests(
        model, [DecodingRequest(one, parse_arm(arm), max_new_tokens=new, top_logprobs=top) for one in prompts]
    )
    assert all(isinstance(one, Generation) for one in results), results
    return [one for one in results if isinstance(one, Generation)]


def reread(model: Any, branch: Prompt, tokens: Sequence[int]) -> np.ndarray:
    """The logits of a branch after some tokens, from a forward pass over the whole text, in float64."""
    session = model.open([branch])
    if tokens:
        session.extend([list(tokens)])
    return session.logits[0].double().numpy()


def distribution(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def entropy(p: np.ndarray) -> float:
    return float(-sum(x * math.log(x) for x in p if x > 0))


def js_divergence(p: np.ndarray, q: np.ndarray) -> float:
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def check_against_the_logits(model: Any, arm: Any, question: Prompt, answer: Generation, close: float) -> None:
    """The formula of VCD, written out."""
    method: Any = parse_arm(arm).strategy
    steps, tokens = answer.steps, list(answer.tokens)
    ended = [*tokens, *([min(model.stop_tokens)] if answer.finish == "stop" else [])]
    assert len(steps["chosen"]) == len(ended) == len(answer.trace["plausible_tokens"])
    branches = method.branches(question)
    for step, token in enumerate(ended):
        original, noised = (reread(model, branch, tokens[:step]) for branch in branches)
        p = distribution(original)
        score = np.where(p >= method.beta * p.max(), (1 + method.alpha) * original - method.alpha * noised, -np.inf)
        rows = [p, distribution(noised), distribution(score)]
        word = "" if token in model.stop_tokens else model.text([token]) or f"#{token}"
        assert steps["words"][steps["chosen"][step]] == word
        for row, places, shares in zip(rows, steps["top"][step], steps["p"][step], strict=True):
            best = [i for i in np.argsort(-row, kind="stable")[:TOP] if row[i] > 0]
            assert shares == pytest.approx([row[i] for i in best], abs=close)
            if all(abs(np.diff([row[i] for i in best])) > 2 * close):  # no tie whose order rounding decides
                words = ["" if i in model.stop_tokens else model.text([int(i)]) or f"#{i}" for i in best]
                assert [steps["words"][place] for place in places] == words
        assert steps["entropy"][step] == pytest.approx([entropy(row) for row in rows], abs=10 * close)
        assert steps["js_divergence"][step] == pytest.approx([js_divergence(rows[0], rows[1])], abs=10 * close)
        assert answer.trace["plausible_tokens"][step] == np.isfinite(score).sum()
        assert answer.trace["changed"][step] == (score.argmax() != original.argmax())
    assert steps["weights"] == [[1 + method.alpha, -method.alpha]]


@pytest.mark.parametrize("stop_bias", [-9.0, 1.0])
def test_a_trace_equals_the_distributions_of_the_branches(stop_bias: float) -> None:
    model = Toy(stop_bias=stop_bias)
    arm = {"name": "vcd", "alpha": 2.0, "beta": 0.05}
    prompts = [prompt(i, shots=i % 3) for i in range(5)]
    results = answers(model, arm, prompts)
    for question, answer in zip(prompts, results, strict=True):
        check_against_the_logits(model, arm, question, answer, 1e-4)
    assert ("stop" in {one.finish for one in results}) == (stop_bias > 0)
    assert any(sum(one.trace["changed"]) for one in results)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> HF:
    return HF(path=str(tiny_models.save("llava", tmp_path_factory.mktemp("llava"))), dtype="float32", device="cpu")


def test_a_trace_of_a_real_architecture_equals_its_distributions(llava: HF) -> None:
    llava.load()
    arm = {"name": "vcd", "alpha": 3.0, "beta": 0.02}
    questions = [tiny_models.prompt(colors, "color", query=f"q{i}") for i, colors in enumerate(([1, 2], [3]))]
    for question, answer in zip(questions, answers(llava, arm, questions, new=4), strict=True):
        check_against_the_logits(llava, arm, question, answer, 1e-4)


def stored_numbers(generation: Generation) -> list[float]:
    """Every value in nats and every weight of a trace, in one order."""
    values = [value for column in generation.trace.values() for value in column]
    steps = len(generation.steps["chosen"])
    for name in ("entropy", "js_divergence", "weights"):
        rows = generation.steps.get(name) or []
        rows = rows * steps if len(rows) == 1 else rows  # weights that never change are stored once
        values += [value for row in rows for value in row or []]
    return values


def unrounded(monkeypatch: pytest.MonkeyPatch, decode: Callable[[], list[Generation]]) -> list[Generation]:
    with monkeypatch.context() as patch:
        patch.setattr(hypotheses, "round_nats", list)
        patch.setattr(trace, "round_nats", list)
        return decode()


@pytest.mark.parametrize("arm", ["vcd", "adacad", "dola"])
def test_stored_traces_do_not_depend_on_the_batch_unless_a_rounding_boundary_is_crossed(
    arm: str, llava: HF, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [tiny_models.prompt([c + 1] * (c % 3 + 1), f"color {c}", query=f"q{c}") for c in range(4)]

    def alone() -> list[Generation]:
        return [answers(llava, arm, [question], new=4)[0] for question in questions]

    def together() -> list[Generation]:
        return answers(llava, arm, questions, new=4)

    equal = different = 0
    precise = zip(unrounded(monkeypatch, alone), unrounded(monkeypatch, together), strict=True)
    for stored_1, stored_n, (precise_1, precise_n) in zip(alone(), together(), precise, strict=True):
        assert stored_1.tokens == stored_n.tokens
        rows = (stored_numbers(one) for one in (stored_1, stored_n, precise_1, precise_n))
        for a, b, exact_a, exact_b in zip(*rows, strict=True):
            assert abs(exact_a - exact_b) < BATCH_ERROR
            assert round_nats([exact_a, exact_b]) == [a, b]
            equal, different = equal + (a == b), different + (a != b)
            if a != b:  # the boundary between the two stored values lies between the two values
                boundary = (a + b) / 2
                assert min(exact_a, exact_b) <= boundary + 1e-12
                assert max(exact_a, exact_b) >= boundary - 1e-12
    assert equal > 20 * different


def test_values_in_nats_are_stored_with_four_decimals_and_probabilities_with_four_digits() -> None:
    assert round_nats([1.23456, 1e-6, -1e-6, 0.00016]) == [1.2346, 0.0, 0.0, 0.0002]
    assert str(round_nats([-1e-6])[0]) == "0.0"
    assert round_probabilities([0.123456, 1.23456e-7]) == [0.1235, 1.235e-7]


def test_step_traces_are_optional_and_change_no_token() -> None:
    prompts = [prompt(i) for i in range(4)]
    untraced, traced = (answers(Toy(), {"name": "vcd", "beta": 0.0}, prompts, top) for top in (0, 2))
    assert [one.tokens for one in untraced] == [one.tokens for one in traced]
    assert all(not one.steps for one in untraced)
    assert all(len(row) == 2 for one in traced for step in one.steps["top"] for row in step)


def test_requests_with_and_without_step_traces_are_not_merged() -> None:
    counters, arm = Counters(), parse_arm("vcd")
    first, second = run_requests(
        Toy(), [DecodingRequest(prompt(1), arm), DecodingRequest(prompt(1), arm, top_logprobs=2)], counters
    )
    assert isinstance(first, Generation)
    assert isinstance(second, Generation)
    assert not first.steps
    assert second.steps
    assert first.tokens == second.tokens
    assert counters.requests_reused == 0


@pytest.mark.parametrize("arm", ["greedy", "vcd", {"name": "vcd", "sampling": {"beams": 2}}], ids=str)
def test_the_step_traces_of_a_request_do_not_depend_on_those_of_its_batch(arm: Any) -> None:
    requests = [DecodingRequest(prompt(i), parse_arm(arm), max_new_tokens=3, top_logprobs=i) for i in range(4)]
    assert run_requests(Toy(), requests) == [run_requests(Toy(), [request])[0] for request in requests]


def test_a_strategy_of_one_branch_has_no_divergence_and_no_weights() -> None:
    (one,) = answers(Toy(stop_bias=-3.0), "greedy", [prompt(1)])
    assert set(one.steps) == {"words", "chosen", "top", "p", "entropy"}
    assert all(reference == combined for reference, combined in one.steps["p"])


def random_logits(branches: int, rows: int = 3, size: int = 50) -> Tensor:
    return 3 * torch.randn(branches, rows, size, generator=torch.Generator().manual_seed(branches))


def test_varying_weights_are_fitted_from_the_step() -> None:
    """AdaCAD: (1 + a) z - a z', a: the Jensen-Shannon divergence at this step."""
    z = random_logits(2)
    method = parse_arm("adacad").strategy
    fitted_weights = step_weights(method, z, 0, [InitialStepState()] * 3)
    for row, weights in enumerate(fitted_weights):
        assert weights is not None
        by_hand = method.combine(z, 0)[row]
        again = weights[0] * z[0, row] + weights[1] * z[1, row]
        difference = by_hand - again
        assert float((difference - difference.mean()).abs().max()) < 1e-3
        assert sum(weights) == pytest.approx(float(method.strength(z, 0)[row]), abs=1e-4)
    assert len({tuple(w) for w in fitted_weights if w}) == 3


def test_scores_that_are_no_weighted_sum_have_no_weights() -> None:
    mixture = parse_arm(
        {"name": "contrast", "branches": ["no_image"], "weights": [0.5, 0.5], "space": "probabilities"}
    ).strategy
    assert step_weights(mixture, random_logits(2), 0, [InitialStepState()] * 3) == [None] * 3


def test_an_unusable_row_does_not_affect_others() -> None:
    z = random_logits(2)
    method = parse_arm("adacad").strategy
    clean = trace_branches(method, z, method.combine(z, 0), [0, 0, 0], step=0, states=[InitialStepState()] * 3, top=4)
    spoilt = z.clone()
    spoilt[1, 1, 7] = float("nan")
    again = trace_branches(
        method, spoilt, method.combine(spoilt, 0), [0, 0, 0], step=0, states=[InitialStepState()] * 3, top=4
    )
    assert again[0].weights == pytest.approx(clean[0].weights)
    assert again[2].ids == clean[2].ids


def test_distinct_tokens_and_constant_weights_are_stored_once() -> None:
    z = torch.zeros(2, 1, 6)
    z[:, 0, 3], z[:, 0, STOP] = 5, 2
    method: Strategy = parse_arm("vcd").strategy
    step_traces = [
        trace_branches(method, z, z[0], [token], step=step, states=[InitialStepState()], top=2)[0]
        for step, token in enumerate((3, 3, STOP))
    ]
    serialized = serialize_step_traces(step_traces, frozenset({STOP}), lambda ids: f"w{ids[0]}")
    assert serialized["words"] == ["w3", ""]
    assert serialized["chosen"] == [0, 0, 1]
    assert serialized["top"] == [[[0, 1]] * 3] * 3
    assert serialized["weights"] == [[2.0, -1.0]]
    assert serialized["js_divergence"] == [[0.0]] * 3
