"""What a strategy is, found by asking it: branches, weights, and the hidden temperature of their sum.

A strategy need not declare its weights. They are measured on made-up logits: how far the combined scores move, token
by token, where one branch moves. Constant weights answer alike everywhere; others are told as varying (None).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from decoding.base import Strategy
from icl import spans
from icl.errors import ConfigError
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

VOCABULARY = 64
EXITS = 4
"""Early layers of a made-up model."""


def probe_prompt(shots: int = 2) -> Prompt:
    """A small prompt with named parts and made-up images, its demonstrations with different answers, and another."""
    return replace(_made_up_prompt(shots, "probe", 99), paired_prompt=_made_up_prompt(shots, "other probe", 98))


def _made_up_prompt(shots: int, query: str, number: int) -> Prompt:
    parts: list[Part] = []
    for i in range(shots):
        demo = spans.demo(i)
        parts += [
            Part(_image(i), spans.image(demo)),
            Part("Which color?", spans.question(demo)),
            Part(("red", "blue", "green")[i % 3], spans.answer(demo)),
        ]
    parts += [Part(_image(number), spans.image(spans.QUERY)), Part("Which color?", spans.QUESTION)]
    return Prompt((Turn("user", tuple(parts)),), StreamKey(0, query))


def probe_branches(strategy: Strategy, prompt: Prompt | None = None) -> tuple[Prompt, ...]:
    """The branches of one prompt. Raises ConfigError where a strategy gives no prompts."""
    branches = call_branches(strategy, prompt)
    if not isinstance(branches, Sequence) or not branches or not all(isinstance(one, Prompt) for one in branches):
        name = type(strategy).__name__
        raise ConfigError(f"{name}.branches() gave no tuple of prompts: {branches!r:.80} (icl check strategy …).")
    return branches


def call_branches(strategy: Strategy, prompt: Prompt | None = None) -> tuple[Prompt, ...]:
    """What the strategy gives for one prompt, whatever it is, its preparation answered with a made-up sentence."""
    prompt = probe_prompt() if prompt is None else prompt
    (note,) = strategy.prepare([prompt], lambda prompts, max_new_tokens: ["a red square"] * len(prompts))
    return strategy.branches(prompt, note)


@lru_cache
def branch_count(strategy: Strategy) -> int:
    """How many prompts a strategy reads, asked once."""
    return len(probe_branches(strategy))


def logits_count(strategy: Strategy) -> int:
    """How many distributions a strategy is handed at a step of a made-up model."""
    return branch_count(strategy) + (EXITS if strategy.traits.reads_early_exits else 0)


def declares_weights(strategy: Strategy) -> bool:
    """Whether the strategy says its weights itself."""
    return type(strategy).weights is not Strategy.weights


def constant_weights(strategy: Strategy) -> tuple[float, ...] | None:
    """The constant weights of the branches, declared or measured; None where they vary."""
    return strategy.weights if declares_weights(strategy) else measure_weights(strategy)


def constant_strength(strategy: Strategy) -> float | None:
    """The sum of the weights: a hidden inverse temperature. None where it varies."""
    weights = constant_weights(strategy)
    return None if weights is None else sum(weights)


@lru_cache
def min_strength(strategy: Strategy) -> float:
    """The sum of the weights; where it varies, the least that was met on made-up logits."""
    fixed = constant_strength(strategy)
    return fixed if fixed is not None else min(float(strategy.strength(z, 1).min()) for z in _made_up(strategy))


@lru_cache
def has_negative_weight(strategy: Strategy) -> bool:
    """Whether a branch counts against a token: by its weight, or on made-up logits where weights vary."""
    weights = constant_weights(strategy)
    if weights is not None:
        return any(weight < 0 for weight in weights)
    for z in _made_up(strategy):
        before = strategy.combine(z, 1).softmax(-1)[..., 0]
        for b in range(1, len(z)):
            moved = z.clone()
            moved[b, :, 0] += 0.1
            if bool((strategy.combine(moved, 1).softmax(-1)[..., 0] < before - 1e-6).any()):
                return True
    return False


@lru_cache
def edits_query_image(strategy: Strategy) -> bool:
    """Whether a branch shows the query's image edited."""
    shown = [part for branch in probe_branches(strategy) for part in branch.parts() if part.within("query")]
    return any(part.image is not None and len(part.image.edits) > 0 for part in shown)


def _made_up(strategy: Strategy) -> Iterator["Tensor"]:
    import torch

    generator = torch.Generator().manual_seed(1)
    for scale in (0.5, 3.0):
        yield scale * torch.randn(logits_count(strategy), 16, VOCABULARY, generator=generator)


@lru_cache
def measure_weights(strategy: Strategy) -> tuple[float, ...] | None:
    """The weights by measurement: [combine(z + d on branch b) - combine(z)] / d, where that is a constant."""
    import torch

    count = logits_count(strategy)
    generator = torch.Generator().manual_seed(0)
    found: list[tuple[float, ...]] = []
    for scale in (0.5, 3.0):
        base = scale * torch.randn(count, 1, VOCABULARY, generator=generator)
        slopes = []
        for b in range(count):
            moved = base.clone()
            moved[b] += 0.5 * torch.randn(1, VOCABULARY, generator=generator)
            slope = _slope(strategy, base, moved, b)
            if slope is None:
                return None
            slopes.append(slope)
        found.append(tuple(slopes))
    alike = all(abs(a - b) < 1e-3 * (1 + abs(a)) for a, b in zip(*found, strict=True))
    return tuple(round(slope, 3) for slope in found[0]) if alike else None


def _combined(strategy: Strategy, logits: "Tensor") -> "Tensor":
    import torch

    scores = strategy.combine(logits, 1)
    if not isinstance(scores, torch.Tensor) or scores.shape != logits.shape[1:] or not scores.is_floating_point():
        told = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ConfigError(
            f"{type(strategy).__name__}.combine() gave {told} for logits of {list(logits.shape)}. It gives float32 "
            f"scores [batch, vocabulary], here {list(logits.shape[1:])} (icl check strategy …)."
        )
    return scores


def _slope(strategy: Strategy, base: "Tensor", moved: "Tensor", branch: int) -> float | None:
    before, after = _combined(strategy, base.clone()), _combined(strategy, moved.clone())
    seen = (before.isfinite() & after.isfinite())[0]
    rise, move = (after - before)[0, seen], (moved - base)[branch, 0, seen]
    rise, move = rise - rise.mean(), move - move.mean()
    if int(seen.sum()) < 3:
        return None
    slope = float((rise * move).sum() / (move * move).sum())
    return slope if float((rise - slope * move).abs().max()) < 1e-3 * (1 + abs(slope)) else None


def _image(number: int) -> Image:
    def load() -> "PILImage":
        from PIL import Image as PILImage

        return PILImage.new("RGB", (16, 16), (20 + 2 * number, 120, 200 - number))

    return Image.from_source(load, f"made-up image {number}")
