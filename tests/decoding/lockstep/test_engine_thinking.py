"""Thinking budgets in real vLLM: outputs are those of the token loop over plain forward passes of transformers."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
import torch
from reference import Reference

from decoding.arms.arm import parse_arm
from decoding.engine import engine as loop
from decoding.engine.requests import DecodingRequest
from icl.text.reasoning_blocks import ReasoningMarkers
from icl.types import Generation
from tests.decoding.toy import Row, Toy

ARMS = ("greedy", {"name": "vcd", "images": "all", "sampling": {"temperature": 0.9}})
CLEAR = 1e-3
"""Difference of log-probabilities at which two engines must choose the same token."""


class PlainModel(Toy):
    """The reference as a model of the token loop."""

    def __init__(self, reference: Reference, engine: groups.Watched) -> None:
        super().__init__()
        self.reference, self.engine = reference, engine

    stop_tokens = frozenset(checkpoints.STOPS)

    @property
    def tokenizer(self) -> Any:
        return self.engine.tokenizer

    def count_tokens(self, prompt: Any) -> int:
        return self.engine.count_tokens(prompt)

    def render(self, prompt: Any) -> str:
        return self.engine.render(prompt)

    def text(self, tokens: Any) -> str:
        return self.engine.text(tokens)

    def before_answer(self, prompt: Any, reasoning: str = "") -> Any:
        return self.engine.before_answer(prompt, reasoning)

    def option_ids(self, prompt: Any, options: Any) -> Any:
        return self.engine.option_ids(prompt, options)

    def logits_of(self, rows: Any) -> torch.Tensor:
        return torch.stack([self._logits(row) for row in rows])

    def _logits(self, row: Row) -> torch.Tensor:
        return self.reference.logits(row.prompt, row.tokens)[-1]


TIGHT = {"max_num_batched_tokens": 64, "num_gpu_blocks_override": 17, "max_num_seqs": 16}
"""Prompts are computed in chunks, and groups are preempted, so that steps are computed again."""


@pytest.fixture(scope="module")
def engine() -> Iterator[groups.Watched]:
    made = groups.tiny_engine(checkpoints.shared("llava"), **TIGHT)
    yield made
    made.unload()


def usual_markers(prompt: str, texts: list[str]) -> ReasoningMarkers:
    """An opening marker at the end of the prompt, and as closing marker the most frequent letter of the outputs."""
    letters = Counter(letter for text in texts for letter in set(text[:8]) if letter.isascii() and letter.isprintable())
    return ReasoningMarkers(prompt[-4:], min(letters, key=lambda letter: (-letters[letter], letter)))


def test_outputs_are_those_of_the_token_loop(engine: groups.Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = groups.prompts(8, seed=4)
    plain = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=14) for prompt in prompts]
    texts = [engine.text(answer.tokens) for answer in groups.run_requests(engine, plain)]
    markers = usual_markers(engine.render(prompts[0]), texts)
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (markers,))
    jobs = [
        DecodingRequest(prompt, parse_arm(arm), max_new_tokens=answer, max_thinking_tokens=thinking)
        for prompt in prompts
        for arm in ARMS
        for thinking, answer in ((2, 3), (8, 9))
    ]
    answers = groups.run_requests(engine, jobs)
    engine.check_runner()
    counts = engine.scheduler.counts
    assert groups.is_async() or counts["preempted"] + counts["partly preempted"] > 0
    assert counts["violations"] == 0
    model, ends, num_clear = PlainModel(Reference(checkpoints.shared("llava")), engine), set(), 0
    for answer, expected in zip(answers, loop.run_requests(model, jobs), strict=True):
        assert isinstance(answer, Generation), answer.reason
        assert isinstance(expected, Generation)
        if min(expected.trace["gap"]) < CLEAR and answer.tokens != expected.tokens:
            continue
        num_clear += 1
        assert (answer.text, answer.tokens, answer.finish) == (expected.text, expected.tokens, expected.finish)
        assert (answer.thinking, answer.usage) == (expected.thinking, expected.usage)
        assert answer.trace["logprob"] == pytest.approx(expected.trace["logprob"], abs=1e-3)
        ends.add((answer.thinking, answer.finish))
    assert num_clear > 0.9 * len(jobs)
    assert {thinking for thinking, _ in ends} >= {"cut", "closed"}
    assert {finish for _, finish in ends} == {"stop", "length"}


def test_options_after_reasoning_are_those_of_the_token_loop(
    engine: groups.Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = groups.prompts(3, seed=5)
    markers = usual_markers(engine.render(prompts[0]), ["~"])
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (markers,))
    jobs = [
        DecodingRequest(prompt, parse_arm(arm), ("red", "is it"), "options", max_thinking_tokens=4)
        for prompt in prompts
        for arm in ("greedy", {"name": "vcd", "images": "all"})
    ]
    model = PlainModel(Reference(checkpoints.shared("llava")), engine)
    answers = groups.run_requests(engine, jobs)
    for answer, expected in zip(answers, loop.run_requests(model, jobs), strict=True):
        assert isinstance(answer, Generation), answer.reason
        assert isinstance(expected, Generation)
        assert (answer.reasoning, answer.thinking) == (expected.reasoning, expected.thinking)
        assert answer.reasoning
        assert dict(answer.option_scores) == pytest.approx(dict(expected.option_scores), abs=1e-3)
