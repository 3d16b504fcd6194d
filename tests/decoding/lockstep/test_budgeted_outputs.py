"""Thinking budgets in an engine: outputs are those of the token loop, whatever the batch and the repeated steps."""

import random
from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.engine import engine as loop
from decoding.engine.requests import DecodingRequest, Failure
from decoding.lockstep import engine
from decoding.lockstep.request_metadata import BranchMetadata, ThinkingLimits, parse_branch
from decoding.lockstep.step_records import (
    NOT_FORCED,
    RECORD_STORE,
    STOPPED_IN_MARKER,
    BudgetedOutput,
    empty_output,
    read_tokens,
)
from icl.models.vllm.engine_io import EngineOutput
from tests.decoding.lockstep.test_group_runs import same
from tests.decoding.lockstep.toy_engine import ToyEngine
from tests.decoding.prompts import prompt
from tests.decoding.thinker import CLOSING, OPENING, Thinker, WordTokenizer
from tests.decoding.toy import STOP

ARMS = ("greedy", "vcd", {"name": "vcd", "sampling": {"temperature": 1.0}}, {"name": "mask_only", "of": "vcd"})
LIMITS = ((0, 1), (4, 1), (6, 2), (12, 5))


def requests(**more: Any) -> list[DecodingRequest]:
    return [
        DecodingRequest(prompt(i, shots=1), parse_arm(arm), max_new_tokens=answer, max_thinking_tokens=thinking, **more)
        for i in range(2)
        for arm in ARMS
        for thinking, answer in LIMITS
    ]


@pytest.mark.parametrize(
    ("opened", "closes", "top"), [(False, -9.0, 2), (True, -9.0, 0), (False, 1.5, 0), (True, 1.5, 2)]
)
def test_answers_are_those_of_the_token_loop(opened: bool, closes: float, top: int) -> None:
    jobs = requests(top_logprobs=top)
    answers = engine.run_requests(ToyEngine(Thinker(opened=opened, closes=closes)), jobs)
    expected = loop.run_requests(Thinker(opened=opened, closes=closes), jobs)
    for answer, right in zip(answers, expected, strict=True):
        same(answer, right)
        assert (answer.thinking, answer.usage.thinking_tokens) == (right.thinking, right.usage.thinking_tokens)
    assert {answer.thinking for answer in answers} >= ({"cut"} if closes < 0 else {"cut", "closed"})
    assert not RECORD_STORE.records


def test_greedy_answers_without_traces_have_a_budget_too() -> None:
    job = DecodingRequest(prompt(0), parse_arm("greedy"), max_new_tokens=2, max_thinking_tokens=3)
    (answer,) = engine.run_requests(ToyEngine(Thinker(closes=-9.0)), [job], trace=False)
    (expected,) = loop.run_requests(Thinker(closes=-9.0), [job], trace=False)
    assert answer == expected


def test_special_markers_are_in_the_text() -> None:
    job = DecodingRequest(prompt(0), parse_arm("greedy"), max_new_tokens=2, max_thinking_tokens=3)
    (answer,) = engine.run_requests(ToyEngine(Thinker(special=True, closes=-9.0)), [job])
    (expected,) = loop.run_requests(Thinker(special=True, closes=-9.0), [job])
    assert (answer.text, answer.tokens) == (expected.text, expected.tokens)
    assert "</think>" in answer.text


def test_a_step_that_is_computed_again_gives_the_same_token() -> None:
    limits = ThinkingLimits(max_thinking_tokens=3, max_new_tokens=2, stop_tokens=(STOP,))
    chosen, draw = [OPENING, 5, 6, 7, 3, 4, 6], random.Random(0)

    def run(repeats: bool) -> list[tuple[int, bool]]:
        output, results = BudgetedOutput(), []
        while len(results) < len(chosen):
            step = len(results)
            token, is_forced = output.demand(step, limits, WordTokenizer) or (chosen[step], False)
            output.read(step, token, limits)
            results.append((token, is_forced))
            if repeats and draw.random() < 0.5:  # preempted: the last steps run again
                del results[draw.randrange(len(results) + 1) :]
        return results

    once = run(repeats=False)
    assert once == [(OPENING, False), (5, False), (6, False), (CLOSING, True), (3, False), (4, False), (STOP, False)]
    for _ in range(20):
        assert run(repeats=True) == once


def test_a_dropped_record_is_noticed_by_the_front_end() -> None:
    limits = ThinkingLimits(max_thinking_tokens=2, max_new_tokens=2, stop_tokens=(STOP,))
    output = BudgetedOutput()
    assert output.demand(5, limits, WordTokenizer) is None
    output.read(5, 7, limits)
    assert not output.chosen
    assert read_tokens(empty_output(limits, WordTokenizer()), [OPENING, 5, 6, 7], {STOP}) == NOT_FORCED


def test_a_marker_with_a_stop_token_is_an_error_with_a_message() -> None:
    class Ends(ToyEngine):
        stop_tokens = frozenset({STOP, CLOSING})

    job = DecodingRequest(prompt(0), parse_arm("greedy"), max_new_tokens=2, max_thinking_tokens=3)
    (answer,) = engine.run_requests(Ends(Thinker(closes=-9.0)), [job])
    assert answer == Failure(f"greedy: {STOPPED_IN_MARKER}.")


def test_an_output_that_the_engine_cuts_short_ends_by_its_length() -> None:
    class Short(ToyEngine):
        def run_groups(self, groups: Any, done: Any) -> None:
            def shortened(number: int, outputs: list[EngineOutput]) -> None:
                done(number, [EngineOutput(one.tokens[:2], "length") for one in outputs])

            super().run_groups(groups, shortened)

    job = DecodingRequest(prompt(0), parse_arm("greedy"), max_new_tokens=2, max_thinking_tokens=9)
    (answer,) = engine.run_requests(Short(Thinker(closes=-9.0)), [job])
    assert not isinstance(answer, Failure)
    assert (answer.finish, answer.thinking, len(answer.tokens)) == ("length", "open", 2)


def test_limits_survive_the_metadata_of_a_request() -> None:
    limits = ThinkingLimits(5, 7, (1, 2), "<think>")
    branch = BranchMetadata("g", 0, 1, "[]", thinking=limits)
    assert parse_branch(branch.extra_args()) == branch
