"""Prompts for tiny random checkpoints; `save("llava", folder)` writes one (tests.random_models)."""

import os
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np
from PIL import Image as PILImage

from icl.images import Image
from icl.streams import StreamKey
from icl.types import Part, Prompt, Role, Turn
from tests.random_models.common import TEMPLATE, Size
from tests.random_models.conversations import conversation
from tests.random_models.make import save

__all__ = [
    "ARCHITECTURES",
    "IS_WHOLE",
    "SAMPLE",
    "TEMPLATE",
    "Size",
    "conversations",
    "image",
    "pairs",
    "prompt",
    "prompts",
    "save",
    "turn",
]

A = TypeVar("A")
B = TypeVar("B")

ARCHITECTURES = ("llava", "llava_onevision", "idefics3", "smolvlm", "internvl", "gemma3", "qwen2_5_vl", "qwen3_5")
"""Caches, positions and tiles of every kind.

`python -m lab.architectures` asks all that are known.
"""

IS_WHOLE = os.environ.get("ICL_ARCHITECTURES") == "all"
"""Whether products are tested whole, as by `make nightly`."""

SAMPLE = ARCHITECTURES if IS_WHOLE else ("llava", "gemma3", "qwen2_5_vl", "qwen3_5")
"""One for each kind of cache and of positions: a whole cache, a window, positions of three axes, a state.

For tests of rows and caches. In each of their files, the first equality is that of all architectures. The others are
too with `ICL_ARCHITECTURES=all` (`make nightly`).
"""


def pairs(first: Sequence[A], second: Sequence[B]) -> list[tuple[A, B]]:
    """Cases of a product: each value of both at least once. All pairs with `ICL_ARCHITECTURES=all`."""
    if IS_WHOLE:
        return list(product(first, second))
    return [(first[i % len(first)], second[i % len(second)]) for i in range(max(len(first), len(second)))]


def image(seed: int, size: tuple[int, int] | None = None) -> Image:
    """A random image whose default size depends on the seed."""
    draw = np.random.default_rng(seed)
    height, width = size or draw.choice([40, 56, 84, 120], 2)
    coarse = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = PILImage.fromarray(coarse).resize((int(width), int(height)), PILImage.Resampling.BILINEAR)
    return Image.from_pil(image, f"image {seed}")


def turn(role: Role, *content: str | Image, name: str = "") -> Turn:
    return Turn(role, tuple(Part(item, f"{name}.{i}" if name else "") for i, item in enumerate(content)))


def prompt(
    images: list[int], question: str = "color?", query: str = "q", size: tuple[int, int] | None = None
) -> Prompt:
    """Demonstrations as turns, one image each; the last image is the query's. No image: a question alone."""
    turns = []
    for seed in images[:-1]:
        turns += [turn("user", image(seed, size), "what?", name=f"demo[{seed}]"), turn("assistant", f"shape {seed}")]
    parts = [image(seed, size) for seed in images[-1:]]
    return Prompt((*turns, turn("user", *parts, question, name="query")), StreamKey(0, query))


def prompts() -> list[Prompt]:
    """Five prompts of different lengths and numbers of images, one without any, some images shared."""
    return [
        prompt([1, 2, 3]),
        prompt([4], "how many are there in it?"),
        prompt([5, 1, 6, 2], "x"),
        prompt([], "hello"),
        prompt([2, 7], "what?"),
    ]


def conversations(chosen: list[Prompt]) -> list[list[dict[str, Any]]]:
    """The prompts as input of `apply_chat_template`, images included."""
    return [conversation(prompt) for prompt in chosen]
