"""Prompts and independent slow references for the tests of decoding."""

from dataclasses import replace

import torch
from torch import Tensor

from decoding.strategies.vcd import VCD
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn


def image(number: int, side: int = 32) -> Image:
    from PIL import Image as PILImage

    return Image.from_pil(PILImage.new("RGB", (side, side), (number % 256, 90, 255 - number % 256)), f"image {number}")


def prompt(number: int, shots: int = 2, question: str | None = None) -> Prompt:
    """A prompt with a paired prompt."""
    return replace(_prompt(number, shots, question), paired_prompt=_prompt(number + 1000, shots))


def _prompt(number: int, shots: int, question: str | None = None) -> Prompt:
    turns = []
    for i in range(shots):
        demo_parts = (
            Part(image(100 * number + i), f"demo[{i}].image[0]"),
            Part("Which colour?", f"demo[{i}].question"),
        )
        turns += [Turn("user", demo_parts), Turn("assistant", (Part("red", f"demo[{i}].answer"),))]
    question = question or f"What is number {number}?"
    turns.append(Turn("user", (Part(image(100 * number + 50), "query.image[0]"), Part(question, "query.question"))))
    return Prompt(tuple(turns), StreamKey(0, f"q{number}"))


def vcd_one_at_a_time(model: object, method: VCD, question: Prompt, limit: int) -> tuple[int, ...]:
    """VCD as in its paper: two forward passes over prompt and answer per step, without cache and batch."""
    original, noised = method.branches(question)
    tokens: list[int] = []
    while len(tokens) < limit:
        z, z_noised = (_reread(model, branch, tokens) for branch in (original, noised))
        chances = torch.softmax(z, 0)
        score = torch.log_softmax((1 + method.alpha) * z - method.alpha * z_noised, 0)
        score[chances < method.beta * chances.max()] = -torch.inf
        token = int(score.argmax())
        if token in model.stop_tokens:  # type: ignore[attr-defined]
            break
        tokens.append(token)
    return tuple(tokens)


def _reread(model: object, branch: Prompt, tokens: list[int]) -> Tensor:
    session = model.open([branch])  # type: ignore[attr-defined]
    if tokens:
        session.extend([tokens])
    return session.logits[0].double()
