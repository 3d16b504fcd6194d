"""Decoding requests as groups of a toy engine: the answers are those of the token loop, whatever the batch."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.engine import engine as loop
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.lockstep import engine
from decoding.lockstep.request_metadata import parse_branch
from decoding.lockstep.step_records import RECORD_STORE
from icl.models.vllm.engine_io import EngineOutput
from icl.types import Generation
from tests.decoding.lockstep.toy_engine import ToyEngine
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

FILES = Path(__file__).parent
SPREAD = {"name": f"{FILES / 'spread.py'}:Spread", "branch_count": 4}
ARMS: tuple[Any, ...] = (
    "greedy",
    "vcd",
    {"name": "vcd", "sampling": {"temperature": 0.8, "top_k": 9}},
    "sampling",
    {"name": "mask_only", "of": "vcd"},
    {"name": "nbce", "eta": 0.5},
    {"name": "gaussian_proxy", "of": "vcd"},
    SPREAD,
)
OPTIONS = ("w3", "w4 w5", "w4", "w6 w0 w7")


def toy() -> Toy:
    return Toy(stop_bias=1.5)


def decoding_requests(arms: Any = ARMS, count: int = 3, **more: Any) -> list[DecodingRequest]:
    return [
        DecodingRequest(prompt(i, shots=2), parse_arm(arm), max_new_tokens=1 + 3 * (i % 3), **more)
        for i in range(count)
        for arm in arms
    ]


def same(answer: Any, expected: Any) -> None:
    """Checks everything that a sample records."""
    assert isinstance(answer, Generation), answer
    assert (answer.text, answer.tokens, answer.finish) == (expected.text, expected.tokens, expected.finish)
    assert answer.usage == expected.usage
    assert answer.option_scores == pytest.approx(expected.option_scores, abs=1e-4)
    assert list(answer.option_scores) == list(expected.option_scores)
    assert answer.trace.keys() == expected.trace.keys()
    for name, values in expected.trace.items():
        assert answer.trace[name] == pytest.approx(values, abs=1e-4), name
    assert answer.steps.keys() == expected.steps.keys()
    for name in ("words", "chosen", "top"):
        assert answer.steps.get(name) == expected.steps.get(name)
    for got, right in zip(answer.steps.get("p", ()), expected.steps.get("p", ()), strict=True):
        for one, other in zip(got, right, strict=True):
            assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("top", [0, 2])
def test_answers_are_those_of_the_loop(top: int) -> None:
    requests = decoding_requests(top_logprobs=top)
    answers = engine.run_requests(ToyEngine(toy()), requests)
    ends = set()
    for answer, expected in zip(answers, loop.run_requests(toy(), requests), strict=True):
        same(answer, expected)
        ends.add(answer.finish)
        assert bool(answer.steps) == bool(top)
    assert ends == {"stop", "length"}
    assert not RECORD_STORE.records


def test_step_traces_are_recorded_only_for_requests_that_ask_for_them() -> None:
    requests = [
        replace(request, top_logprobs=i % 3) for i, request in enumerate(decoding_requests(arms=("vcd",), count=6))
    ]
    answers = engine.run_requests(ToyEngine(toy()), requests)
    for request, answer, expected in zip(requests, answers, loop.run_requests(toy(), requests), strict=True):
        assert isinstance(answer, Generation)
        assert bool(answer.steps) == bool(request.top_logprobs)
        assert answer.tokens == expected.tokens
        assert isinstance(expected, Generation)
        assert answer.steps.get("top") == expected.steps.get("top")
        assert all(len(branch) <= request.top_logprobs for step in answer.steps.get("top", ()) for branch in step)


@pytest.mark.parametrize("normalize", ["sum", "mean", "bytes"])
def test_options_are_scored_as_the_loop_scores_them(normalize: Any) -> None:
    arms = [replace(parse_arm(arm), normalize=normalize) for arm in ARMS]
    requests = [DecodingRequest(prompt(i, shots=1), arm, OPTIONS, "options") for i in range(2) for arm in arms]
    answers = engine.run_requests(ToyEngine(toy()), requests)
    for answer, expected in zip(answers, loop.run_requests(toy(), requests), strict=True):
        same(answer, expected)
    short = [replace(request, options=("w3", "w4")) for request in requests[:2]]
    for answer, expected in zip(
        engine.run_requests(ToyEngine(toy()), short), loop.run_requests(toy(), short), strict=True
    ):
        same(answer, expected)


def test_answers_do_not_depend_on_the_rest_of_the_batch() -> None:
    requests = decoding_requests()
    expected = engine.run_requests(ToyEngine(toy(), together=1), requests)
    for together, seed in ((3, 1), (50, 2)):
        for answer, alone in zip(
            engine.run_requests(ToyEngine(toy(), together, seed), requests), expected, strict=True
        ):
            same(answer, alone)


def test_without_traces_greedy_is_an_ordinary_request_and_nothing_is_recorded() -> None:
    for trace, model_has in ((False, True), (True, False)):
        model = ToyEngine(toy())
        model.trace = model_has
        answers = engine.run_requests(model, decoding_requests(("greedy", "vcd")), trace=trace)
        assert [len(group) for group in model.groups] in ([1, 2] * 3, [2, 1] * 3)
        assert all(bool(request.extra) == (len(group) == 2) for group in model.groups for request in group)
        assert [answer.tokens for answer in answers] == [
            a.tokens for a in loop.run_requests(toy(), decoding_requests(("greedy", "vcd")))
        ]
        assert not any(answer.trace for answer in answers)
        assert "" not in [name for names in model.fetched for name in names]
    model = ToyEngine(toy())
    engine.run_requests(model, decoding_requests(("greedy",), count=1), trace=False)
    assert model.fetched == []  # nothing to fetch


def test_greedy_asked_for_its_steps_is_a_group_of_one() -> None:
    for more, trace in (({"top_logprobs": 1}, False), ({}, True)):
        model = ToyEngine(toy())
        (answer,) = engine.run_requests(model, decoding_requests(("greedy",), count=1, **more), trace=trace)
        assert isinstance(answer, Generation)
        assert [[parse_branch(request.extra) is not None for request in group] for group in model.groups] == [[True]]
    sampled = ToyEngine(toy())
    engine.run_requests(sampled, decoding_requests(("sampling",), count=1), trace=False)
    assert sampled.groups[0][0].extra


def test_work_is_counted_and_equal_requests_are_computed_once() -> None:
    model, counters, results = ToyEngine(toy()), Counters(), dict[int, Any]()
    requests = [*decoding_requests(("greedy", "vcd"), count=2), *decoding_requests(("vcd",), count=2)]
    scored = DecodingRequest(prompt(1), parse_arm("vcd"), OPTIONS, "options")
    answers = engine.run_requests(model, [*requests, scored], counters, on_result=results.setdefault)
    assert [results[i] for i in range(7)] == answers
    assert answers[4:6] == [answers[1], answers[3]]
    assert (counters.decoding_requests, counters.requests_reused, counters.requests_failed) == (7, 2, 0)
    assert counters.prompts_prefilled == sum(map(len, model.groups)) == 1 + 2 + 1 + 2 + 2 * 3
    written = {id(answer): answer for answer in answers[:4]}.values()
    assert counters.rows_without_sharing == sum(answer.usage.forwards for answer in written)
    assert model.loaded >= 1


def test_prompts_with_the_same_start_are_submitted_one_after_the_other() -> None:
    model = ToyEngine(toy())
    requests = [
        DecodingRequest(prompt(i % 3, question=f"{i}?"), parse_arm("greedy"), max_new_tokens=1) for i in range(9)
    ]
    engine.run_requests(model, requests, trace=False)
    order = [group[0].prompt.images[0].origin for group in model.groups]
    assert sum(a != b for a, b in pairwise(order)) == 2
    roles = [group[0].prompt.turns[0].role for group in model.groups]
    assert set(roles) == {"user"}
    assert engine.prefix_key(requests[0].prompt)[:2] == ("user", requests[0].prompt.images[0].digest)
    assert requests[0].prompt.turns[0].parts[1].text in engine.prefix_key(requests[0].prompt)


def test_results_are_reported_as_soon_as_a_full_batch_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FETCH_SIZE", 4)
    model, order = ToyEngine(toy(), together=2), list[int]()
    requests = decoding_requests(("vcd",), count=10)
    answers = engine.run_requests(model, requests, on_result=lambda i, answer: order.append(len(model.groups)))
    assert [len(names) for names in model.fetched] == [4, 4, 2]
    assert order[0] < 7
    for answer, expected in zip(answers, loop.run_requests(toy(), requests), strict=True):
        same(answer, expected)


def test_an_error_of_one_request_fails_it_alone() -> None:
    model = ToyEngine(toy())
    model.refusals = {"number 1?": EngineOutput(reason="there is no room"), "number 2?": EngineOutput(finish="abort")}
    poison: Any = {"name": f"{FILES / 'poison.py'}:Poison", "at": 0, "branch_count": 2}
    faulty: Any = {"name": f"{FILES / 'faulty.py'}:Faulty"}
    requests = [
        *decoding_requests(("vcd",)),
        *decoding_requests((poison, faulty, "dola"), count=1),
        DecodingRequest(prompt(4), parse_arm("vcd"), ("",), "options"),
    ]
    requests += [
        DecodingRequest(prompt(4), parse_arm("vcd"), (), "options"),
        DecodingRequest(prompt(5), parse_arm({**SPREAD, "branch_count": 17})),
    ]
    requests += [DecodingRequest(prompt(6), parse_arm(poison), OPTIONS, "options")]
    counters = Counters()
    answers = engine.run_requests(model, requests, counters)
    assert isinstance(answers[0], Generation)
    reasons = [answer.reason for answer in answers[1:] if isinstance(answer, Failure)]
    assert reasons[0] == "vcd: there is no room."
    assert reasons[1] == "vcd: the engine ended the request (abort)."
    assert reasons[2].endswith(": step 0: the combined scores of Poison rule out every token.")
    assert "ZeroDivisionError: integer division or modulo by zero (faulty.py" in reasons[3]
    assert reasons[4].startswith("dola: decoding 'dola' needs hidden states")
    assert reasons[5] == reasons[6] == "vcd: an option adds no tokens to this prompt."
    assert reasons[7].endswith(": it has 17 branches, and a group in the engine has at most 16.")
    assert "rule out every token" in reasons[8]
    assert len(reasons) == counters.requests_failed == 9
    assert not RECORD_STORE.records


def test_a_group_may_have_sixteen_branches() -> None:
    request = DecodingRequest(prompt(5), parse_arm({**SPREAD, "branch_count": 16}), max_new_tokens=3)
    (answer,), (expected,) = engine.run_requests(ToyEngine(toy()), [request]), loop.run_requests(toy(), [request])
    same(answer, expected)


def test_a_strategy_that_generates_first_is_answered_by_the_engine_itself() -> None:
    model, counters = ToyEngine(toy()), Counters()
    requests = [DecodingRequest(prompt(i), parse_arm("code"), max_new_tokens=4) for i in range(2)]
    for answer, expected in zip(
        engine.run_requests(model, requests, counters), loop.run_requests(toy(), requests), strict=True
    ):
        same(answer, expected)
    assert counters.prompts_prepared > 0
    assert [bool(request.extra) for group in model.groups[: counters.prompts_prepared] for request in group] == [
        False
    ] * counters.prompts_prepared


def test_a_vote_counts_independent_samples() -> None:
    requests = [
        DecodingRequest(prompt(i), parse_arm({"name": "self_consistency", "samples": 3}), max_new_tokens=4)
        for i in range(3)
    ]
    for answer, expected in zip(
        engine.run_requests(ToyEngine(toy()), requests), loop.run_requests(toy(), requests), strict=True
    ):
        same(answer, expected)


def test_runs_never_share_the_names_of_their_groups() -> None:
    names = set()
    for _ in range(2):
        model = ToyEngine(toy())
        engine.run_requests(
            model, [*decoding_requests(("vcd",)), DecodingRequest(prompt(1), parse_arm("vcd"), OPTIONS, "options")]
        )
        groups = [
            {branch.group for request in group if (branch := parse_branch(request.extra))} for group in model.groups
        ]
        assert all(len(group) == 1 for group in groups)
        names |= {name for group in groups for name in group}
    assert len(names) == 2 * 6
