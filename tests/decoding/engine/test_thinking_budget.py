"""The thinking budget: what it lets an output write, compared with unlimited decoding and with a loop of its own."""

from typing import Any

import pytest
import tiny_models
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.hypotheses import DecodingGroup, Hypothesis
from decoding.engine.requests import DecodingRequest, Failure
from decoding.engine.thinking_budget import Thinking
from decoding.engine.token_loop import TokenLoop
from icl.models.interventions import TokenPart
from icl.text.reasoning_blocks import REASONING_MARKERS, split_reasoning
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.thinker import CLOSING, OPENING, Thinker
from tests.decoding.toy import STOP, Row, Toy, ToySession


def decode(model: Toy, arm: Any = "greedy", query: int = 0, **limits: Any) -> Generation:
    settings = {"lazy_branches": limits.pop("lazy_branches")} if "lazy_branches" in limits else {}
    request = DecodingRequest(prompt(query), parse_arm(arm), **limits)
    (result,) = run_requests(model, [request], **settings)
    assert isinstance(result, Generation), result
    return result


def forced_by_hand(model: Thinker, query: int, thinking: int, answer: int) -> tuple[int, ...]:
    """Greedy decoding where the block is closed after so many tokens, by a loop of its own."""
    row = Row(prompt(query))
    inside, used = model.opened, {True: 0, False: 0}
    while used[False] < answer:
        if inside and used[True] >= thinking:
            token = CLOSING
        else:
            token = int(model.logits_of([row])[0].argmax())
            if token == STOP:
                break
            used[inside or token == OPENING] += 1
        row.tokens.append(token)
        inside = token not in (CLOSING,) and (inside or token == OPENING)
    return tuple(row.tokens)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("closes", [-9.0, 0.0, 1.5])
@pytest.mark.parametrize(("thinking", "answer"), [(0, 1), (1, 3), (4, 1), (6, 2), (40, 5)])
def test_the_output_is_that_of_a_loop_which_closes_the_block(
    opened: bool, closes: float, thinking: int, answer: int
) -> None:
    model = Thinker(opened=opened, closes=closes)
    for query in range(6):
        output = decode(model, query=query, max_new_tokens=answer, max_thinking_tokens=thinking)
        assert output.tokens == forced_by_hand(model, query, thinking, answer)


def test_thinking_does_not_consume_the_tokens_of_the_answer() -> None:
    model, ends = Thinker(closes=1.0), set()
    for query in range(30):
        whole = decode(model, query=query, max_new_tokens=60)
        output = decode(model, query=query, max_new_tokens=3, max_thinking_tokens=5)
        ends.add(output.thinking)
        answer = output.tokens[output.tokens.index(CLOSING) + 1 :] if CLOSING in output.tokens else ()
        assert len(answer) <= 3
        assert output.finish == ("length" if len(answer) == 3 else "stop")
        assert output.usage.thinking_tokens <= 5
        common = output.tokens[: 5 if output.thinking == "cut" else len(output.tokens)]
        assert whole.tokens[: len(common)] == common  # the budget changes nothing before it ends
        assert (output.thinking == "cut") == (CLOSING not in whole.tokens[:5] and len(whole.tokens) >= 5)
    assert ends >= {"cut", "closed"}


def test_without_a_budget_the_block_consumes_the_tokens_of_the_answer() -> None:
    output = decode(Thinker(closes=-9.0), max_new_tokens=4)
    assert (output.thinking, output.finish, output.usage.thinking_tokens) == ("", "length", 0)
    assert split_reasoning(output.text).answer == ""


@pytest.mark.parametrize("opened", [False, True])
def test_special_markers_are_in_the_text_of_an_output_with_a_budget(opened: bool) -> None:
    limits = {"max_new_tokens": 3, "max_thinking_tokens": 5}
    special = decode(Thinker(special=True, opened=opened, closes=-9.0), **limits)
    plain = decode(Thinker(opened=opened, closes=-9.0), **limits)
    assert special.tokens == plain.tokens
    assert split_reasoning(special.text) == split_reasoning(plain.text)
    assert split_reasoning(special.text).answer


@pytest.mark.parametrize("arm", ["vcd", {"name": "vcd", "sampling": {"temperature": 1.0}}, "icd"])
def test_all_branches_read_the_forced_marker_under_every_schedule(arm: Any) -> None:
    limits = {"max_new_tokens": 4, "max_thinking_tokens": 3}
    for query in range(4):
        eager, lazy = (
            decode(Thinker(closes=-9.0), arm, query, lazy_branches=when, **limits) for when in ("never", "always")
        )
        assert eager.tokens == lazy.tokens
        assert eager.tokens[3] == CLOSING
        assert eager.trace["logprob"][3] == 0.0
        assert all(value > -1e9 for value in eager.trace["logprob"])


def test_stop_strings_end_the_answer_and_not_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(criterion: Any, hypotheses: Any) -> list[bool]:
        return [h.tokens[-1] > CLOSING for h in hypotheses]

    monkeypatch.setattr("decoding.engine.token_choice.ends_with_stop_string", ends)
    monkeypatch.setattr("decoding.engine.batch.build_stop_criterion", lambda model, strings: "any word")
    model = Thinker(closes=-9.0)
    output = decode(model, max_new_tokens=5, max_thinking_tokens=4, stop_strings=("any word",))
    whole = decode(model, max_new_tokens=5, max_thinking_tokens=4)
    assert output.tokens == whole.tokens[:6]  # the block, its marker, one word
    assert output.finish == "stop"


def test_a_marker_of_several_tokens_opens_a_block() -> None:
    class Characters:
        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list(map(ord, text))

    for markers in REASONING_MARKERS:
        if len(markers.opening) > 24:  # its tokens are special
            continue
        thinking, tokens = Thinking(Characters(), len(markers.opening) + 3), []
        for letter in f"{markers.opening}xyz":
            assert not thinking.forced
            tokens.append(ord(letter))
            thinking.read(tokens)
            assert thinking.num_answer_tokens == 0 or thinking.may_open(tokens)
        assert thinking.num_answer_tokens == 0
        assert "".join(map(chr, thinking.forced)) == markers.forced


def test_beam_search_has_no_thinking_budget() -> None:
    arm = parse_arm({"name": "greedy", "sampling": {"beams": 2}})
    (result,) = run_requests(Thinker(), [DecodingRequest(prompt(0), arm, max_thinking_tokens=4)])
    assert isinstance(result, Failure)
    assert "beams end at one length" in result.reason


def test_a_hugging_face_model_continues_after_the_forced_marker() -> None:
    from icl.models.hf.model import HF

    model = HF(path="tiny", dtype="float32", device="cpu")
    model.load()
    one, arm = tiny_models.prompt([1, 2], "Describe the image", size=(56, 84)), parse_arm("greedy")

    def tokens(thinking: Thinking | None, limit: int) -> list[int]:
        hypothesis = Hypothesis([0], limit, thinking=thinking)
        TokenLoop(model.open([one]), [DecodingGroup(arm.strategy, arm.sampler, [hypothesis])], frozenset()).run()
        return hypothesis.tokens

    with torch.inference_mode():
        block = tokens(None, 3)
        closing = max(block) + 1

        class Tokenizer:
            """The first word of the answer opens a block."""

            def decode(self, ids: list[int]) -> str:
                return " ".join({block[0]: "<think>", closing: "</think>"}.get(i, "word") for i in ids)

            def encode(self, text: str, add_special_tokens: bool) -> list[int]:
                return [closing]

        by_hand, expected = model.open([one]), [*block, closing]
        by_hand.extend([expected])
        for _ in range(2):
            expected.append(int(by_hand.logits[0].argmax()))
            by_hand.advance(torch.tensor(expected[-1:]))
        assert tokens(Thinking(Tokenizer(), 3), 2) == expected


def test_outputs_with_equal_tokens_share_a_row_only_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interventions that act in one part of the output edit their tokens differently."""
    read: list[list[TokenPart]] = []
    monkeypatch.setattr(ToySession, "advance", _recorded(ToySession.advance, read))
    greedy, model = parse_arm("greedy"), Toy(stop_bias=-99.0)

    class Fixed(Thinking):
        name: Any = ""

        def part(self, tokens: Any) -> TokenPart:
            return TokenPart(self.name)

    def hypothesis(name: str) -> Hypothesis:
        thinking = Fixed(Thinker.tokenizer, 9)
        thinking.name = name
        return Hypothesis([0], 3, thinking=thinking, parts=[])

    hypotheses = [hypothesis(name) for name in ("think", "answer", "think")]
    TokenLoop(model.open([prompt(0)]), [DecodingGroup(greedy.strategy, greedy.sampler, hypotheses)], frozenset()).run()
    assert hypotheses[0].tokens == hypotheses[1].tokens == hypotheses[2].tokens
    assert read == [[TokenPart("answer"), TokenPart("think")]] * 2
    plain = [Hypothesis([0], 3) for _ in range(2)]
    TokenLoop(model.open([prompt(0)]), [DecodingGroup(greedy.strategy, greedy.sampler, plain)], frozenset()).run()
    assert read[2:] == [[]] * 2


def _recorded(advance: Any, read: list[list[TokenPart]]) -> Any:
    def recorded(session: ToySession, tokens: torch.Tensor, parts: Any = ()) -> None:
        read.append(list(parts))
        advance(session, tokens, parts)

    return recorded
