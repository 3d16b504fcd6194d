"""Prompts and models that the checks share, and comparisons of the logits of two ways of computing them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from decoding.arms.arm import Arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure
from icl import spans
from icl.errors import ModelError
from icl.images import Image
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn
from lab.gpu.check import Bench
from tests.random_models.conversations import conversation

GAP = 0.05
"""Smallest difference of the two best logits at which a step in 16 bits counts as decided."""

EXACT_GAP = 1e-3
"""The same in float32."""

WORDS = ("red", "a blue square", "two of them", "on the left", "green", "none")


@dataclass(frozen=True)
class EndlessHF(HF):
    """A model without an end of text, so that all answers have the same length."""

    stop_tokens: ClassVar[frozenset[int]] = frozenset()


def load_model(bench: Bench, path: str, **settings: Any) -> HF:
    """A loaded model on the bench's device whose answers all have the length that is asked for."""
    model = EndlessHF(path=path, **({"device": bench.device} | settings))
    model.load()
    return model


def make_prompts(count: int, demos: Sequence[int] = (0, 1, 2, 3), seed: int = 0, size: int = 64) -> list[Prompt]:
    """Prompts with images of random squares. demos: numbers of demonstrations, in turn."""
    draw = np.random.default_rng(seed)

    def turns(number: int, name: str) -> tuple[Turn, Turn]:
        squares = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.from_pil(PILImage.fromarray(squares).resize((size, size), PILImage.Resampling.NEAREST), name)
        question = f"What is number {number} in this image?"
        user = Turn("user", (Part(image, f"{name}.image"), Part(question, f"{name}.question")))
        answer = WORDS[int(draw.integers(len(WORDS)))]
        return user, Turn("assistant", (Part(answer, f"{name}.answer"),))

    made = []
    for i in range(count):
        demo_turns = [turn for k in range(demos[i % len(demos)]) for turn in turns(k, f"demo[{k}]")]
        made.append(Prompt((*demo_turns, turns(i, spans.QUERY)[0]), StreamKey(0, f"{seed}-{i}")))
    return made


def processed(model: HF, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """The inputs of `generate` from the processor, padded on the left."""
    conversations = [conversation(prompt) for prompt in prompts]
    inputs = model.checkpoint.processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    language_model = model.engine.runner.model
    return {
        name: value.to(language_model.device, language_model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def decode(
    model: HF, prompts: Sequence[Prompt], arms: Sequence[Arm], length: int, counters: Counters | None = None
) -> list[Generation]:
    """The answers of all arms to all prompts. Raises ModelError if one fails."""
    requests = [DecodingRequest(prompt, arm, max_new_tokens=length) for prompt in prompts for arm in arms]
    return answers_of(run_requests(model, requests, counters))


def answers_of(results: Sequence[Generation | Failure]) -> list[Generation]:
    """The results as answers. Raises ModelError with the reason of the first failure."""
    answers = []
    for result in results:
        if isinstance(result, Failure):
            raise ModelError(result.reason)
        answers.append(result)
    return answers


@torch.inference_mode()
def greedy_tokens(model: HF, prompts: Sequence[Prompt], length: int) -> Tensor:
    """The tokens that the model chooses for each prompt alone, [N, length]."""
    rows = []
    for prompt in prompts:
        session, tokens = model.open([prompt]), list[Tensor]()
        for _ in range(length):
            tokens.append(session.logits.argmax(-1))
            session.advance(tokens[-1])
        rows.append(torch.cat(tokens))
    return torch.stack(rows)


@torch.inference_mode()
def forced_logits(model: HF, prompts: Sequence[Prompt], tokens: Tensor, batch: int) -> Tensor:
    """Logits at each step along given tokens, on the CPU: [N, length, V].

    Args:
        model: The model.
        prompts: N prompts.
        tokens: [N, length]; steps of one way of computing are compared with those of another along the same tokens.
        batch: Prompts of one session.
    """
    parts = []
    for start in range(0, len(prompts), batch):
        session = model.open(prompts[start : start + batch])
        own, steps = tokens[start : start + batch].to(session.logits.device), list[Tensor]()
        for step in range(tokens.shape[1]):
            steps.append(session.logits.float().cpu())
            session.advance(own[:, step])
        parts.append(torch.stack(steps, 1))
    return torch.cat(parts)


@dataclass(frozen=True)
class StepAgreement:
    """How far two ways of computing logits agree.

    Attributes:
        steps: Steps compared.
        decided: Steps where the two best logits of the first way are further apart than the gap.
        equal: Decided steps with the same best token.
        largest_difference: Of any logit.
    """

    steps: int
    decided: int
    equal: int
    largest_difference: float

    def holds(self, min_decided: float = 0.9) -> bool:
        """Whether all decided steps are equal, and more than a fraction of the steps is decided."""
        return self.equal == self.decided and self.decided > min_decided * self.steps

    def describe(self) -> str:
        return (
            f"{self.equal} of {self.decided} decided steps equal, {self.decided / self.steps:.0%} of {self.steps} "
            f"decided, logits differ by at most {self.largest_difference:.2g}"
        )


def agreement(first: Tensor, second: Tensor, gap: float = GAP) -> StepAgreement:
    """Compares logits [N, length, V]."""
    first, second = (logits.flatten(0, -2) for logits in (first, second))
    best = first.topk(2, dim=-1)
    decided = best.values[:, 0] - best.values[:, 1] > gap
    equal = decided & (second.argmax(-1) == best.indices[:, 0])
    return StepAgreement(len(first), int(decided.sum()), int(equal.sum()), float((first - second).abs().max()))


def undecided_or_equal(expected: Generation, tokens: Sequence[int], gap: float = EXACT_GAP) -> bool:
    """Whether tokens equal an answer up to its first step whose two best log-probabilities are closer than the gap."""
    for step, token in enumerate(expected.tokens):
        if expected.trace["gap"][step] <= gap:
            return True
        if step >= len(tokens) or tokens[step] != token:
            return False
    return len(tokens) == len(expected.tokens)


def seconds(bench: Bench, work: Callable[[], object]) -> float:
    """Seconds of some work: on a GPU until the device is idle, on a CPU those of this process alone."""
    if bench.device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(bench: Bench, works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median time of each work over rounds in turn, after one round that is not counted."""
    times: list[list[float]] = [[] for _ in works]
    for round_number in range(rounds + 1):
        for own, work in zip(times, works, strict=True):
            spent = seconds(bench, work)
            if round_number:
                own.append(spent)
    return [statistics.median(own) for own in times]
