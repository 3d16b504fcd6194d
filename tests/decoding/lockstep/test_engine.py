"""Decoding requests on a real engine: batches, options, traces, faults, refusals. Answers equal the token loop's."""

import importlib.util
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
import torch
from reference import Reference

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_prompt
from decoding.arms.requirements import unsupported_reason
from decoding.base import InitialStepState
from decoding.engine.decoding_step import combine_branches
from decoding.engine.option_scoring import combined_logprobs
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.trace import TRACE_FIELDS, trace_branches
from icl.images import Image
from icl.registry import entries, resolve
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn

OPTIONS = ("red", "r", "x", "blue or so")


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[groups.Watched]:
    made = groups.tiny_engine(folder, max_model_len=1024)
    yield made
    made.unload()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def tokens(answers: list[Any]) -> list[tuple[int, ...]]:
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer.tokens for answer in answers]


def test_an_answer_does_not_depend_on_the_batch(engine: groups.Watched) -> None:
    requests = groups.decoding_requests(15, 10, seed=3)
    together = tokens(groups.run_requests(engine, requests))
    alone = [tokens(groups.run_requests(engine, [request]))[0] for request in requests]
    assert together == alone


def test_options_are_scored_by_the_same_strategy(engine: groups.Watched, reference: Reference) -> None:
    requests = [
        DecodingRequest(prompt, replace(parse_arm(arm), normalize=how), OPTIONS, "options")
        for prompt in groups.prompts(3, seed=5)
        for arm, how in (("greedy", "sum"), (groups.ARMS[0], "mean"), (groups.ARMS[1], "bytes"))
    ]
    for request, answer in zip(requests, groups.run_requests(engine, requests), strict=True):
        assert isinstance(answer, Generation), answer.reason
        for option, ids in zip(OPTIONS, engine.option_ids(request.prompt, OPTIONS), strict=True):
            read = [reference.logits(branch, ids[:-1]) for branch in request.arm.strategy.branches(request.prompt)]
            logprobs = [
                float(
                    combined_logprobs(request.arm.strategy, torch.stack([row[s] for row in read])[:, None], s)[0][
                        0, token
                    ]
                )
                for s, token in enumerate(ids)
            ]
            size = {"sum": 1, "mean": len(ids), "bytes": len(option)}[request.normalize]
            assert answer.option_scores[option] == pytest.approx(sum(logprobs) / size, abs=5e-4)
        assert answer.text == max(answer.option_scores, key=lambda o: answer.option_scores[o])


def test_traces_are_those_of_the_loop(engine: groups.Watched, reference: Reference) -> None:
    request = DecodingRequest(groups.prompts(1, seed=7)[0], parse_arm(groups.ARMS[0]), max_new_tokens=6)
    (answer,) = groups.run_requests(engine, [request])
    assert isinstance(answer, Generation)
    assert tuple(answer.trace) == TRACE_FIELDS
    read = [reference.logits(branch, answer.tokens) for branch in request.arm.strategy.branches(request.prompt)]
    for step in range(len(answer.tokens)):
        own = torch.stack([row[step] for row in read])[:, None]
        combined, _ = combine_branches(request.arm.strategy, own, step)
        assert answer.trace["plausible_tokens"][step] == float((combined > -torch.inf).sum())
        assert answer.trace["changed"][step] == float(combined.argmax() != own[0].argmax())
        assert answer.trace["entropy"][step] == pytest.approx(
            float(torch.special.entr(combined.softmax(-1)).sum()), abs=1e-4
        )
        logprobs = combined.log_softmax(-1)[0]
        first, second = logprobs.topk(2).values.tolist()
        assert answer.trace["logprob"][step] == pytest.approx(float(logprobs[answer.tokens[step]]), abs=1e-4)
        assert answer.trace["gap"][step] == pytest.approx(min(first - second, 1000.0), abs=1e-4)


def test_traces_of_branches_are_those_of_plain_forward_passes(engine: groups.Watched, reference: Reference) -> None:
    requests = [
        replace(request, top_logprobs=3)
        for request in groups.decoding_requests(3, 5, seed=8, arms=("greedy", groups.ARMS[0], groups.ARMS[4]))
    ]
    for request, answer in zip(requests, groups.run_requests(engine, requests), strict=True):
        assert isinstance(answer, Generation)
        strategy, steps = request.arm.strategy, answer.steps
        read = [reference.logits(branch, answer.tokens) for branch in strategy.branches(request.prompt)]
        for step, token in enumerate(answer.tokens):
            own = torch.stack([row[step] for row in read])[:, None]
            combined, _ = combine_branches(strategy, own, step)
            (expected,) = trace_branches(
                strategy, own, combined, [token], step=step, states=[InitialStepState()], top=3
            )
            assert steps["p"][step][0] == pytest.approx(expected.probabilities[0], abs=2e-3)
            assert steps["entropy"][step] == pytest.approx(expected.entropy, abs=5e-3)
            assert (
                steps["js_divergence"][step] == pytest.approx(expected.js_divergence, abs=2e-3)
                if expected.js_divergence
                else "js_divergence" not in steps
            )


def test_sixteen_branches_decode_one_output(engine: groups.Watched, reference: Reference) -> None:
    arm = parse_arm({"name": groups.SPREAD, "branch_count": 16})
    turns = [Turn("assistant" if i % 2 else "user", (Part(f"{i}"),)) for i in range(29)]
    prompt = Prompt(tuple(turns), StreamKey(0, "wide"))
    (answer,) = groups.run_requests(engine, [DecodingRequest(prompt, arm, max_new_tokens=6)])
    assert isinstance(answer, Generation), answer.reason
    outputs = engine.group_outputs[-1]
    assert len(outputs) == 16
    assert len({one.tokens for one in outputs}) == 1
    assert len({one.prompt_tokens for one in outputs}) > 7
    assert reference.distance(prompt, arm, answer.tokens, answer.trace["logprob"]) < 1e-4


def test_an_image_is_encoded_once_whatever_prompt_has_it(engine: groups.Watched) -> None:
    tiny, counts = checkpoints.tiny_models(), engine.scheduler.counts
    before = counts["encoder inputs"]
    requests = [
        DecodingRequest(tiny.prompt([900 + i, 902], "what?", f"e{i}"), parse_arm("greedy"), max_new_tokens=2)
        for i in (0, 1)
    ]
    groups.run_requests(engine, requests)
    groups.run_requests(
        engine, [DecodingRequest(tiny.prompt([902, 901, 900], "and?", "e3"), parse_arm("greedy"), max_new_tokens=2)]
    )
    assert counts["encoder inputs"] - before == 3


def test_usage_counts_what_the_loop_counts(engine: groups.Watched) -> None:
    request = DecodingRequest(groups.prompts(1, seed=7)[0], parse_arm(groups.ARMS[1]), max_new_tokens=5)
    (answer,) = groups.run_requests(engine, [request])
    read = sum(engine.count_tokens(branch) for branch in request.arm.strategy.branches(request.prompt))
    assert isinstance(answer, Generation)
    steps = len(answer.tokens) + (answer.finish == "stop")
    assert (answer.usage.prompt_tokens, answer.usage.new_tokens, answer.usage.forwards) == (read, steps, 3 * steps)


def test_equal_requests_are_computed_once(engine: groups.Watched) -> None:
    prompt = groups.prompts(1, seed=9)[0]
    before = engine.counters()["requests"]
    counters = Counters()
    answers = groups.run_requests(engine, [DecodingRequest(prompt, parse_arm(groups.ARMS[0]))] * 4, counters)
    assert engine.counters()["requests"] - before == 2
    assert len({answer.tokens for answer in answers}) == 1
    assert (counters.decoding_requests, counters.requests_reused) == (4, 3)


def test_greedy_without_traces_is_an_ordinary_request(engine: groups.Watched) -> None:
    prompts = groups.prompts(4, seed=11)
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=8) for prompt in prompts]
    grouped, plain = groups.run_requests(engine, requests), groups.run_requests(engine, requests, trace=False)
    assert tokens(grouped) == tokens(plain)
    assert all(answer.trace for answer in grouped)
    assert not any(request.extra for request in engine.__dict__["groups"][-1])


def test_every_registered_strategy_decodes_as_its_formula_defines(engine: groups.Watched, reference: Reference) -> None:
    arms = []
    for name, entry in entries("strategy").items():
        wraps = "of" in {f.name for f in fields(resolve("strategy", name))}
        arm = parse_arm({"name": name, "of": "chasd" if name == "random_gate" else "vcd"} if wraps else name)
        if (
            unsupported_reason(arm, engine.abilities) is None and arm.strategy.traits.num_samples == 1
        ):  # a vote has no answer of its own
            arms.append((entry.name, arm))
    answers = {"demo[0].answer": "red", "demo[1].answer": "blue", "demo[2].answer": "green"}
    prompts = [
        replace(probe_prompt(n), key=StreamKey(5, f"p{n}")).map(
            lambda part: replace(part, content=answers.get(part.name, part.content))
        )
        for n in (2, 3)
    ]
    requests = [DecodingRequest(prompt, arm, max_new_tokens=6) for _, arm in arms for prompt in prompts]
    steps = decided = 0
    for request, answer in zip(requests, groups.run_requests(engine, requests), strict=True):
        assert isinstance(answer, Generation), (request.arm.label, answer.reason)
        (note,) = request.arm.strategy.prepare(
            [request.prompt], lambda prompts, length: generated(engine, prompts, length)
        )
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        compared = reference.compare(request.prompt, request.arm, answer.tokens, stops, note)
        assert compared.equal == compared.decided, (request.arm.label, compared)
        steps, decided = steps + compared.steps, decided + compared.decided
    print(f"{len(arms)} strategies, {steps} steps, {decided} decided")
    assert len(arms) > 6
    assert decided > 0.8 * steps


def generated(engine: groups.Watched, prompts: Any, length: int) -> list[str]:
    """The texts that an engine generates for the preparation of a strategy."""
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=length) for prompt in prompts]
    return [answer.text for answer in groups.run_requests(engine, requests, trace=False)]


def test_a_step_that_rules_out_every_token_fails_its_request_alone(engine: groups.Watched) -> None:
    poison = parse_arm({"name": f"{Path(__file__).with_name('poison.py')}:Poison", "at": 3})
    prompts = groups.prompts(6, seed=13)
    requests = [
        DecodingRequest(p, poison if i % 2 else parse_arm(groups.ARMS[0]), max_new_tokens=8)
        for i, p in enumerate(prompts)
    ]
    answers = groups.run_requests(engine, requests)
    for i, answer in enumerate(answers):
        if i % 2 and not isinstance(answer, Generation):
            assert "step 3: the combined scores of Poison rule out every token" in answer.reason
        elif i % 2:
            assert answer.finish == "stop"
            assert len(answer.tokens) < 3
        else:
            assert isinstance(answer, Generation)
    assert any(isinstance(answer, Failure) for answer in answers)


def test_a_broken_image_fails_its_request_alone(engine: groups.Watched) -> None:
    broken = Image.from_bytes(b"not an image", "images/7.jpg")
    bad = Prompt((Turn("user", (Part(broken, "query.image[0]"), Part("what?", "query.question"))),))
    requests = [
        DecodingRequest(bad, parse_arm("greedy")),
        DecodingRequest(groups.prompts(1)[0], parse_arm(groups.ARMS[0])),
    ]
    first, second = groups.run_requests(engine, requests)
    assert isinstance(first, Failure)
    assert "images/7.jpg" in first.reason
    assert isinstance(second, Generation)


def test_a_branch_that_is_too_long_does_not_break_the_next_prompt_with_its_image(engine: groups.Watched) -> None:
    wordy = parse_arm({"name": f"{Path(__file__).with_name('wordy.py')}:Wordy"})
    prompt = checkpoints.tiny_models().prompt([11], "what?", "wordy")
    first, second = (
        groups.run_requests(engine, [DecodingRequest(prompt, arm)])[0] for arm in (wordy, parse_arm(groups.ARMS[0]))
    )
    assert isinstance(first, Failure)
    assert "1024" in first.reason
    assert isinstance(second, Generation)


def test_a_prompt_longer_than_the_context_fails_with_a_message(engine: groups.Watched) -> None:
    prompt = checkpoints.tiny_models().prompt([1], "very long " * 120)
    (answer,) = groups.run_requests(engine, [DecodingRequest(prompt, parse_arm(groups.ARMS[0]))])
    assert isinstance(answer, Failure)
    assert "1024" in answer.reason


def test_a_prompt_with_more_images_than_allowed_fails_with_a_message(engine: groups.Watched) -> None:
    prompt = checkpoints.tiny_models().prompt([1, 2, 3, 4, 5], "what?")
    (answer,) = groups.run_requests(engine, [DecodingRequest(prompt, parse_arm(groups.ARMS[0]))])
    assert isinstance(answer, Failure)
    assert "4" in answer.reason


def test_a_strategy_without_a_file_is_refused_before_anything_runs(engine: groups.Watched) -> None:
    spec = importlib.util.spec_from_file_location("__main__", Path(__file__).with_name("poison.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (answer,) = groups.run_requests(engine, [DecodingRequest(groups.prompts(1)[0], parse_arm(module.Poison()))])
    assert isinstance(answer, Failure)
    assert "Move it to a file" in answer.reason


@pytest.mark.parametrize(
    ("name", "value"), [("n", 2), ("temperature", 0.7), ("repetition_penalty", 1.2), ("logit_bias", {5: -1.0})]
)
def test_sampling_parameters_that_act_after_the_strategy_are_refused(name: str, value: Any) -> None:
    from vllm import SamplingParams

    from decoding.formulas.sampling import Greedy
    from decoding.lockstep.logits_processor import LockstepLogitsProcessor
    from decoding.lockstep.request_metadata import BranchMetadata, serialize
    from decoding.strategies.vcd import VCD

    extra = BranchMetadata("g", 0, 2, serialize(VCD(), Greedy())).extra_args()
    LockstepLogitsProcessor.validate_params(SamplingParams(temperature=0, extra_args=extra))
    parameters = {"temperature": 0.7 if name == "n" else 0} | {name: value}
    with pytest.raises(ValueError, match=f"{'temperature' if name == 'n' else name}|n=2"):
        LockstepLogitsProcessor.validate_params(SamplingParams(**parameters, extra_args=extra))
