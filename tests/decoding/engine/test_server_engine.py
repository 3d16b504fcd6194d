"""Decoding requests as requests to a server, with a server that answers from a list."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from decoding.arms.arm import Arm, parse_arm
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.server_engine import arm_config, run_requests
from decoding.formulas.sampling import Greedy
from icl.errors import PlanError
from icl.models.base import Request
from icl.models.icl_server import strategy_request
from icl.streams import StreamKey
from icl.types import Generation
from tests.decoding.prompts import prompt


class Server:
    """Answers every request with a text, or with the reason of a failure."""

    def __init__(self, answer: Generation | str) -> None:
        self.answer, self.requests = answer, list[Request]()

    def load(self) -> None:
        pass

    def generate_each(self, requests: Sequence[Request], on_answer: Callable[[int, Generation | str], None]) -> None:
        self.requests += requests
        for place in range(len(requests)):
            on_answer(place, self.answer)


def test_a_request_names_the_strategy_and_everything_that_its_answer_depends_on() -> None:
    server = Server(Generation("red"))
    arm = parse_arm({"name": "vcd", "alpha": 0.5, "normalize": "mean"})
    request = DecodingRequest(prompt(1), arm, ("red", "blue"), "options", max_new_tokens=7, top_logprobs=3)
    assert run_requests(server, [request]) == [Generation("red")]
    (sent,) = server.requests
    assert sent.strategy == arm_config(arm)
    assert sent.strategy["alpha"] == 0.5
    assert (sent.options, sent.score_options, sent.normalize) == (("red", "blue"), True, "mean")
    assert (sent.max_new_tokens, sent.top) == (7, 3)
    assert sent.prompt.paired_prompt is None  # vcd does not read it


def test_the_text_is_cut_at_a_stop_string_that_the_server_does_not_know() -> None:
    requests = [DecodingRequest(prompt(1), parse_arm("vcd"), stop_strings=stops) for stops in (("\n",), ())]
    answers = run_requests(Server(Generation("red\nQuestion:")), requests)
    assert [answer.text for answer in answers if isinstance(answer, Generation)] == ["red", "red\nQuestion:"]


def test_equal_requests_are_sent_once_unless_they_draw_random_numbers() -> None:
    server, counters = Server(Generation("red")), Counters()
    other_stream = replace(prompt(1), key=StreamKey(0, "another"))
    arms = [parse_arm("greedy"), parse_arm({"name": "greedy", "sampling": {"temperature": 1}}), parse_arm("vcd")]
    requests = [DecodingRequest(one, arm) for arm in arms for one in (prompt(1), prompt(1), other_stream)]
    assert len(run_requests(server, requests, counters)) == 9
    names = [(one.strategy or {}).get("name") for one in server.requests]
    assert names == ["greedy", "greedy", "greedy", "vcd", "vcd"]  # greedy once; sampled and noised once per stream
    assert counters.requests_reused == 4
    assert counters.prompts_prefilled == 1 + 2 + 2 * 2


def test_options_are_scored_after_the_reasoning_that_the_server_wrote_for_the_same_arm() -> None:
    server = Server(Generation("<think>It is blue.</think>red", thinking="closed"))
    requests = [
        DecodingRequest(prompt(1), parse_arm("vcd"), ("red", "blue"), "options", max_thinking_tokens=limit)
        for limit in (None, 5, 5)
    ]
    plain, *reasoned = run_requests(server, requests)
    thought, *scored = server.requests
    assert (thought.score_options, thought.max_thinking_tokens, thought.strategy) == (False, 5, scored[0].strategy)
    assert [(one.reasoning, one.max_thinking_tokens) for one in scored] == [("", None), ("It is blue.", None)]
    fields = [strategy_request(one)["icl"] for one in scored]
    assert [one.get("reasoning") for one in fields] == [None, "It is blue."]
    assert isinstance(plain, Generation)
    assert plain.reasoning == ""
    assert [one.reasoning for one in reasoned if isinstance(one, Generation)] == ["It is blue."] * 2


def test_a_failure_names_the_arm() -> None:
    (answer,) = run_requests(Server("out of memory"), [DecodingRequest(prompt(1), parse_arm("vcd"))])
    assert answer == Failure("vcd: out of memory")


def test_what_cannot_be_sent_fails_with_the_reason() -> None:
    processed = parse_arm({"name": "vcd", "logits_processors": [{"name": "repetition_penalty", "penalty": 1.2}]})
    beams = parse_arm({"name": "vcd", "sampling": {"beams": 3}})
    server = Server(Generation("red"))
    answers = run_requests(server, [DecodingRequest(prompt(1), arm) for arm in (processed, beams, parse_arm("vcd"))])
    assert [isinstance(answer, Failure) for answer in answers] == [True, True, False]
    assert isinstance(answers[0], Failure)
    assert "logits processors cannot be sent" in answers[0].reason
    assert len(server.requests) == 1
    with pytest.raises(PlanError, match="Beam cannot be sent"):
        arm_config(beams)


def test_a_sampler_is_a_part_of_the_config() -> None:
    assert "sampling" not in arm_config(parse_arm("vcd"))
    assert arm_config(parse_arm({"name": "vcd", "sampling": {"temperature": 0.5}}))["sampling"]["temperature"] == 0.5
    sampled = parse_arm({"name": "self_consistency", "samples": 3})
    assert arm_config(Arm(sampled.strategy, Greedy()))["sampling"] == {"temperature": 0}
