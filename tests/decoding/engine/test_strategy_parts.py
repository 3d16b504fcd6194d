"""Strategies that choose tokens in one part of a reasoning output, compared with two phases by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from decoding.arms.arm import default_controls, parse_arm
from decoding.arms.inspection import has_reference_scores
from decoding.arms.requirements import unsupported_reason
from decoding.base import InitialStepState
from decoding.conformance import apply_mask
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.server_engine import arm_config
from decoding.export.custom_generate import obstacle
from icl.errors import ConfigError, PlanError
from icl.models.vllm.model import VLLM
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.thinker import CLOSING, OPENING, SIZE, Thinker
from tests.decoding.toy import STOP, Row

ARMS: list[dict[str, Any]] = [
    {"name": "vcd", "alpha": 3.0, "beta": 0.01},
    {"name": "m3id", "decay": 0.4},  # its weight grows with the number of the token
    {"name": "residual", "alpha": 2.0},  # keeps numbers of the steps before
    {"name": "nbce"},
    {"name": "chasd", "threshold": 0.3},
    {"name": "mask_only", "of": {"name": "vcd", "beta": 0.01}},
    {"name": "sign_flip", "of": {"name": "vcd", "beta": 0.01}},
]


def decode(model: Thinker, requests: Sequence[DecodingRequest], **settings: Any) -> list[Generation]:
    results = run_requests(model, requests, **settings)
    assert all(isinstance(one, Generation) for one in results), results
    return results  # type: ignore[return-value]  # just asserted


def request(query: int, node: Any, thinking: int | None = 4, answer: int = 4, **more: Any) -> DecodingRequest:
    return DecodingRequest(prompt(query), parse_arm(node), max_new_tokens=answer, max_thinking_tokens=thinking, **more)


def two_phases(model: Thinker, one: DecodingRequest, acts_in: str) -> tuple[int, ...]:
    """Greedy decoding, by a loop of its own: the strategy in one part, the logits of the prompt in the other."""
    strategy, tokens, state = one.arm.strategy, [], InitialStepState(one.prompt.key)
    branches = strategy.branches(one.prompt)
    part, used = "think" if model.opened else "", {"think": 0, "answer": 0}
    while used["answer"] < one.max_new_tokens:
        if part == "think" and used["think"] >= (one.max_thinking_tokens or 0):
            token = CLOSING
        else:
            logits = model.logits_of([Row(branch, tokens) for branch in branches])[:, None]
            scores = logits[0]
            if part == acts_in:
                scores = strategy.combine_stateful(logits, len(tokens), [state])  # type: ignore[list-item]
                scores = apply_mask(strategy, scores, logits[0])
            token = int(scores[0].argmax())
            if token == STOP:
                break
            used["think" if part == "think" or token == OPENING else "answer"] += 1
        tokens.append(token)
        part = "think" if token == OPENING or (part == "think" and token != CLOSING) else "answer"
    return tuple(tokens)


@pytest.mark.parametrize("opened", [False, True], ids=["opened by the model", "opened by the prompt"])
@pytest.mark.parametrize("acts_in", ["think", "answer"])
def test_an_output_is_that_of_two_phases_by_hand(opened: bool, acts_in: str) -> None:
    """The model closes some blocks, and the budget others. All outputs share batches."""
    model = Thinker(opened=opened, closes=1.0)
    requests = [request(query, {**node, "acts_in": acts_in}, 2 * query) for query in range(4) for node in ARMS]
    expected = [two_phases(model, one, acts_in) for one in requests]
    for schedule in ("never", "always"):
        outputs = decode(model, requests, lazy_branches=schedule)
        assert [one.tokens for one in outputs] == expected
        assert {one.thinking for one in outputs} >= {"cut", "closed"}
    whole, plain = (
        decode(model, [request(query, node or "greedy", 2 * query) for query in range(4) for node in nodes])
        for nodes in (ARMS, [None] * len(ARMS))
    )
    outputs_of = zip(expected, (one.tokens for one in whole), (one.tokens for one in plain), strict=True)
    assert sum(len(set(three)) == 3 for three in outputs_of) > 1  # neither the strategy throughout nor greedy


@pytest.mark.parametrize("schedule", ["auto", "always"])
def test_outputs_of_a_mixed_batch_equal_outputs_alone(schedule: Any) -> None:
    model = Thinker(closes=1.0)
    requests = [
        request(0, {**node, "acts_in": part}, thinking)
        for node in [{"name": "dola"}, {**ARMS[0], "sampling": {"temperature": 1.0}}, {"name": "nbce"}]
        for part in ("think", "answer", "both")
        for thinking in (0, 4)
    ]
    together = decode(model, requests, lazy_branches=schedule)
    for one, own in zip(together, requests, strict=True):
        (alone,) = decode(model, [own], lazy_branches="never")
        assert one.tokens == alone.tokens
        assert one.trace["logprob"] == pytest.approx(alone.trace["logprob"], abs=1e-5)


def test_outside_its_part_an_output_has_the_distribution_of_the_reference() -> None:
    """Traces show weights of one and zero there, and no mask."""
    model = Thinker(closes=-9.0)
    (output,) = decode(model, [request(0, {**ARMS[0], "acts_in": "answer"}, top_logprobs=2)])
    plain = decode(model, [request(0, "greedy")])[0]
    block = 5  # four tokens with the opening marker, and the closing one
    weights = output.steps["weights"]
    assert weights == [[1, 0]] * block + [[4, -3]] * (len(weights) - block)  # type: ignore[arg-type]  # JSON
    assert len(weights) > block  # type: ignore[arg-type]  # JSON
    assert output.trace["logprob"][:block] == plain.trace["logprob"][:block]
    assert set(output.trace["plausible_tokens"][:block]) == {SIZE}


def test_contrast_branches_read_the_reasoning_in_one_pass_once_the_answer_begins() -> None:
    model, counters = Thinker(closes=-9.0), Counters()
    model.stop_bias = -99.0
    decode(model, [request(0, {**ARMS[0], "acts_in": "answer", "label": "vcd"}, thinking=20)], counters=counters)
    work = counters.arms["vcd"]
    assert (work.lazy, work.tokens, work.tokens_saved) == (1, 24, 0)
    assert work.forwards_saved == 20  # of the block and its marker but one
    assert counters.rows == counters.forwards + 3  # rows of the contrast: for tokens of the answer alone


def test_controls_act_in_the_part_of_their_strategy() -> None:
    controls = default_controls(parse_arm({"name": "vcd", "acts_in": "answer", "sampling": {"temperature": 1.0}}))
    wrapping = [one for one in controls if "vcd" in one.label]
    assert {type(one.strategy).__name__ for one in wrapping} >= {"MaskOnly", "SignFlip", "TemperatureMatched"}
    assert all(one.acts_in == "answer" for one in wrapping)
    assert all(one.acts_in == "both" for one in controls if has_reference_scores(one.strategy))
    assert "mask_only(vcd), temperature=1, acts_in=answer" in {one.label for one in wrapping}


def test_the_part_is_a_key_of_the_arm_and_both_is_its_default() -> None:
    vcd, answer = parse_arm("vcd"), parse_arm({"name": "vcd", "acts_in": "answer"})
    assert parse_arm({"name": "vcd", "acts_in": "both"}) == vcd
    assert "acts_in" not in vcd.config
    assert answer.config == {**vcd.config, "acts_in": "answer"}
    assert answer.label == "vcd, acts_in=answer"
    assert parse_arm({"name": "greedy", "acts_in": "answer"}) == parse_arm("greedy")
    with pytest.raises(ConfigError, match=r"acts_in must be one of think, answer, both, not 'thinking'"):
        parse_arm({"name": "vcd", "acts_in": "thinking"})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_thinking_tokens": None}, "Set max_thinking_tokens"),
        ({"answer_mode": "options", "options": ("w3", "w4")}, "answer_mode: generate"),
        ({"arm": {"sampling": {"beams": 2}}}, "beams end at one length"),
    ],
)
def test_an_output_without_known_parts_is_refused(more: dict[str, Any], message: str) -> None:
    arm = parse_arm({"name": "vcd", "acts_in": "think", **more.pop("arm", {})})
    one = DecodingRequest(prompt(0), arm, **{"max_thinking_tokens": 4, **more})
    (result,) = run_requests(Thinker(), [one])
    assert isinstance(result, Failure)
    assert message in result.reason


def test_backends_that_run_one_strategy_throughout_refuse_it() -> None:
    arm = parse_arm({"name": "vcd", "acts_in": "think"})
    reason = unsupported_reason(arm, VLLM.abilities) or ""
    assert "a strategy that can change within an output (acts_in)" in reason
    assert "runs with model hf" in reason
    assert unsupported_reason(arm, {"logits"}) is None
    assert "acts in one part" in (obstacle(arm) or "")
    with pytest.raises(PlanError, match="acts_in: think cannot be sent to a server"):
        arm_config(arm)
