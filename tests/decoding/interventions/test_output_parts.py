"""Interventions that act in one part of a reasoning output, compared with forward passes under hooks of the tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.base import SteeringMethod
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.engine.result_collector import steered_requests
from decoding.engine.thinking_budget import Thinking
from decoding.interventions.aim import AIM
from decoding.interventions.batch_icl import BatchICL
from decoding.interventions.edits import VectorEdit
from decoding.interventions.knock_out import KnockOut
from decoding.interventions.vista import Vista
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.models.hf.template_facts import TemplateFacts
from icl.models.interventions import END, OutputPart, PartEdit, Site, TokenPart, Where, steer
from icl.text.reasoning_blocks import ReasoningMarkers
from icl.types import Generation, Prompt
from tests.decoding.interventions.dev_split import dev, tiny

LAYER = 1
EVERY, GENERATED = Where("all", "both"), Where(part="answer")
OPENED = ReasoningMarkers("<a>", "<end>", " 4 6")  # <a> ends every prompt, and the model writes <end> after one word
WRITTEN = ReasoningMarkers("<end>", "<a>", " 4 6")  # which the model hardly writes, so that budgets end the block


@dataclass(frozen=True)
class Push(SteeringMethod):
    """A random vector added to the output of one layer."""

    where: Where = EVERY
    scale: float = 3.0

    @property
    def neutral(self) -> bool:
        return False

    @property
    def edit(self) -> VectorEdit:
        return VectorEdit({Site("residual", LAYER): self.scale * vector()}, where=self.where)

    def steered(self, prompts: Sequence[Prompt], model: HF) -> list[Prompt]:
        return [steer(prompt, self.edit) for prompt in prompts]


def vector() -> Tensor:
    return torch.randn(tiny().sites.width, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=[OPENED, WRITTEN], ids=["opened by the prompt", "opened by the model"])
def markers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ReasoningMarkers:
    """The only markers of reasoning blocks. Nothing but limits ends an output."""
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (request.param,))
    monkeypatch.setitem(vars(tiny().renderer), "facts", TemplateFacts())
    monkeypatch.setitem(vars(tiny()), "stop_tokens", frozenset())  # of the instance, which a loaded model has cached
    own: ReasoningMarkers = request.param
    return own


def answers(requests: Sequence[DecodingRequest], **settings: Any) -> list[Generation]:
    results = run_requests(tiny(), requests, **settings)
    assert all(isinstance(one, Generation) for one in results), results
    return results  # type: ignore[return-value]  # just asserted


def request(prompt: Prompt, method: SteeringMethod | None, limit: int = 3, arm: Any = "greedy") -> DecodingRequest:
    return DecodingRequest(prompt, parse_arm(arm), max_new_tokens=4, max_thinking_tokens=limit, intervene=method)


def parts_by_hand(tokens: Sequence[int], limit: int, markers: ReasoningMarkers) -> list[tuple[str, bool, bool]]:
    """Of the prompt and of each token, by token ids: the part that it leads on to, whether the part begins there, and
    whether the token is forced.
    """
    (opening,), (closing,), forced = (
        tiny().tokenizer.encode(text, add_special_tokens=False)
        for text in (markers.opening, markers.closing, markers.forced)
    )
    is_inside, is_cut, used = markers is OPENED, False, 0
    left = len(forced) if is_inside and limit == 0 else 0
    parts = [("think" if is_inside else "", True, False)]
    for token in tokens:
        was_inside, is_forced = is_inside, left > 0
        if left:
            left -= 1
            is_inside, is_cut = is_inside and token != closing, left == 0
        elif is_inside or (token == opening and not is_cut):
            used += 1
            is_inside = not (is_inside and token == closing)
            left = len(forced) if is_inside and used >= limit else 0
        parts.append(("think" if is_inside else "answer", is_inside != was_inside, is_forced))
    return parts


def logits_by_hand(prompt: Prompt, tokens: Sequence[int], acted: Sequence[bool], shift: Tensor) -> Tensor:
    """Logits before each token [len(tokens), V]: one token after the other, under a hook that is on where it acts.

    Args:
        prompt: A prompt without interventions.
        tokens: The output.
        acted: Whether the shift is added at the last token of the prompt, and at each token of the output.
        shift: [d].
    """
    is_on = [False]

    def push(module: Any, args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :-1], output[:, -1:] + shift], 1) if is_on[0] else output

    handle = tiny().sites.layers[LAYER].register_forward_hook(push)
    try:
        is_on[0] = acted[0]
        session, logits = tiny().open([prompt]), []
        for token, own in zip(tokens, acted[1:], strict=True):
            logits.append(session.logits[0])
            is_on[0] = own
            session.advance(torch.tensor([token]))
    finally:
        handle.remove()
    return torch.stack(logits)


@pytest.mark.parametrize("where", [END, EVERY, GENERATED], ids=["end", "every token", "generated"])
def test_an_edit_acts_where_two_phases_by_hand_have_it(where: Where, markers: ReasoningMarkers) -> None:
    """Each output is recomputed with a hook that is switched on and off, from its tokens alone."""
    methods = {"think": Push(where, acts_in="think"), "answer": Push(where, acts_in="answer")}
    prompts = [one.prompt for one in dev(3, 3, 2)]
    cases = [(prompt, part, limit) for prompt in prompts for part in ("think", "answer") for limit in (0, 2, 4)]
    outputs = answers([request(prompt, methods[part], limit) for prompt, part, limit in cases])
    plain = answers([request(prompt, None, limit) for prompt, _, limit in cases])
    for (prompt, acts_in, limit), output in zip(cases, outputs, strict=True):
        parts = parts_by_hand(output.tokens, limit, markers)
        acted = [part == acts_in and (begins or where.part != "prompt") for part, begins, _ in parts]
        acted[0] &= where.part != "answer"
        logits = logits_by_hand(prompt, output.tokens, acted, 3.0 * vector())
        expected = logits.log_softmax(-1)[range(len(logits)), list(output.tokens)]
        is_free = [not is_forced for _, _, is_forced in parts[1:]]
        assert sum(is_free) >= 3
        traced = torch.tensor(output.trace["logprob"])
        assert float((expected - traced)[is_free].abs().max()) < 1e-3
        assert logits.argmax(-1)[is_free].tolist() == [
            t for t, free in zip(output.tokens, is_free, strict=True) if free
        ]
    changes = [
        max(abs(a - b) for a, b in zip(one.trace["logprob"], other.trace["logprob"], strict=False))
        for one, other in zip(outputs, plain, strict=True)
    ]
    assert sum(change > 0.01 for change in changes) > len(outputs) / 3
    assert {one.thinking for one in outputs} >= {"cut"}


@pytest.mark.parametrize("schedule", ["never", "always"])
def test_rows_of_a_batch_at_different_places_equal_rows_alone(schedule: str, markers: ReasoningMarkers) -> None:
    """Parts, budgets, strategies with several branches, and prompts on one beginning, in one batch."""
    gated = {"name": "chasd", "threshold": 0.9}
    requests = [
        request(one.prompt, Push(where, 2.0, acts_in=part), limit, arm)
        for one in dev(2, 3, 2)
        for part in ("think", "answer", "both")
        for limit, arm, where in (
            (2, "greedy", EVERY),
            (5, "vcd", EVERY),
            (4, gated, EVERY),
            (5, "greedy", END),
            (
                3,
                {"name": "code", "max_new_tokens": 4},
                EVERY,
            ),  # reads an output of its own first, which has no thinking budget
        )
    ]
    together = answers(requests, lazy_branches=schedule)
    assert len({one.tokens for one in together}) > 4
    for one, own in zip(together, requests, strict=True):
        (alone,) = answers([own], lazy_branches="never")
        assert one.tokens == alone.tokens
        assert one.trace["logprob"] == pytest.approx(alone.trace["logprob"], abs=2e-3)


def test_acting_in_both_parts_is_the_method_itself() -> None:
    prompt, method = dev(2, 3)[0].prompt, Vista()
    assert method == Vista(acts_in="both")
    assert method.config == Vista(acts_in="both").config == {"name": "vista", "lam": 0.17, "control": "none"}
    (plain,) = method.steered([prompt], tiny())
    (steered,) = steered_requests(tiny(), [request(prompt, method)])
    assert isinstance(steered, DecodingRequest)
    assert steered.prompt.digest == plain.digest
    (part,) = steered_requests(tiny(), [request(prompt, replace(method, acts_in="think"))])
    assert isinstance(part, DecodingRequest)
    assert [type(one) for one in part.prompt.interventions] == [PartEdit]
    assert len({prompt.digest, plain.digest, part.prompt.digest}) == 3
    assert [one.acts_in for one in replace(method, acts_in="answer").controls()] == ["answer"] * 2  # type: ignore[attr-defined]


def test_the_part_of_each_token_of_an_output() -> None:
    class Characters:
        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list(map(ord, text))

    def parts(text: str, limit: int, opened: ReasoningMarkers | None = None) -> str:
        """A letter for the part after each character: - none, t think, a answer; capitals where it begins."""
        thinking, letters = Thinking(Characters(), limit, opened), []
        for end in range(1, len(text) + 1):
            tokens = list(map(ord, text[:end]))
            thinking.forced = thinking.forced[1:]
            thinking.read(tokens)
            part = thinking.part(tokens)
            letter = {"": "-", "think": "t", "answer": "a"}[part.name]
            letters.append(letter.upper() if part.begins else letter)
        return "".join(letters)

    think = ReasoningMarkers("<think>", "</think>")
    assert parts("<think>\nab</think>\n\ncd", 99) == "------TTtttttttttAAAaa"
    assert parts("\nab</think>\ncd", 99, think) == "TtttttttttAAaa"
    assert parts("ab\n</think>\n\ncd", 2, think) == 10 * "t" + "AAAaa"
    assert parts("ab\n</think>\n\n\ncd", 2, think) == parts("ab\n</think>\n\n\ncd", 99, think)
    channels = ReasoningMarkers("<analysis>", "<end>", "<final>")
    assert parts("ab\n<end><final>cd", 2, channels) == parts("ab\n<end><final>cd", 99, channels)
    assert parts("<b> cd", 99) == "-aaaaa"


def refusals(method: SteeringMethod, **more: Any) -> str:
    (result,) = run_requests(tiny(), [replace(request(dev(2, 3)[0].prompt, method), **more)])
    assert isinstance(result, Failure)
    return result.reason


@pytest.mark.parametrize(
    "method",
    [AIM(acts_in="answer"), BatchICL(layer=2, acts_in="think"), KnockOut(tokens="demo_answers", acts_in="think")],
)
def test_methods_that_edit_other_tokens_of_the_prompt_are_refused(method: SteeringMethod) -> None:
    assert "edits other tokens of the prompt" in refusals(method)
    assert "edits other tokens of the prompt" in refusals(method, max_thinking_tokens=None)


def test_outputs_without_known_parts_are_refused() -> None:
    method = Push(acts_in="think")
    assert "Set max_thinking_tokens" in refusals(method, max_thinking_tokens=None)
    assert "answer_mode: generate" in refusals(method, answer_mode="options", options=("4", "6"))
    assert "demo_texts" in refusals(Push(Where("demo_texts"), acts_in="answer"))
    prompt = steer(dev(2, 3)[0].prompt, PartEdit(Push().edit, "think"))
    beams = parse_arm({"name": "greedy", "sampling": {"beams": 2}})
    (result,) = run_requests(tiny(), [DecodingRequest(prompt, beams)])
    assert isinstance(result, Failure)
    assert "beams have no parts" in result.reason
    (result,) = run_requests(
        tiny(), [DecodingRequest(prompt, parse_arm("greedy"), ("4 6", "6 4"), answer_mode="options")]
    )
    assert isinstance(result, Failure)
    assert "it is unknown to which part generated tokens belong" in result.reason


@pytest.mark.parametrize("where", [Where(count=2), Where(before=1), Where("all"), Where("demo[0].answer")])
def test_an_edit_of_the_prompt_alone_has_no_part(where: Where) -> None:
    with pytest.raises(ConfigError, match="acts_in: answer chooses among generated tokens"):
        PartEdit(VectorEdit({}, where=where), "answer")


@pytest.mark.parametrize("part", ["think", "answer"])
def test_rows_keep_their_parts_through_operations_of_sessions(part: OutputPart) -> None:
    """Steps, chunks of unequal lengths, selected and joined rows read the same states."""
    prompts = [one.prompt for one in dev(3, 3, 2)]
    edits = [PartEdit(Push(EVERY).edit, part), None, PartEdit(Push(END).edit, part)]
    parts = [TokenPart("think", True), TokenPart("think"), TokenPart("answer", True), TokenPart("answer")]
    tokens = [206, 4, 3, 208]
    steps = tiny().open(prompts, interventions=edits)
    for token, own in zip(tokens, parts, strict=True):
        steps.advance(torch.full((3,), token), [own] * 3)
    chunks = tiny().open(prompts, interventions=edits)
    chunks.extend([tokens[:3], tokens[:1], tokens[:2]], [parts[:3], parts[:1], parts[:2]])
    chunks = chunks.take(torch.tensor([2, 0])).join(chunks.take(torch.tensor([1])))
    chunks.extend([tokens[2:], tokens[3:], tokens[1:]], [parts[2:], parts[3:], parts[1:]])
    assert float((chunks.logits - steps.logits[[2, 0, 1]]).abs().max()) < 1e-3
    plain = tiny().open(prompts)
    plain.extend([tokens] * 3)
    assert float((plain.logits[1] - steps.logits[1]).abs().max()) < 1e-3
    assert float((plain.logits - steps.logits)[[0, 2]].abs().amax(-1).min()) > 0.05
