"""Contexts whose right transformation is known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image as PILImage

from icl.images import Image
from icl.registry import build
from icl.streams import StreamKey
from icl.types import Context, Demo, Example


def image(shade: int, size: tuple[int, int] = (4, 4)) -> Image:
    return Image.from_pil(PILImage.new("RGB", size, (shade, 0, 0)), f"{size} {shade}")


def context(
    answers: Sequence[str], options: Sequence[str] = (), gold: str = "", query: str = "q", **meta: Any
) -> Context:
    """Demonstrations by rank, shown best last, each with an image and a question of its own."""
    demos = [
        Demo(Example(f"e{i}", (image(i),), f"q{i}?", (word,), tuple(options), word, meta=meta), 0.9 - i / 10, i)
        for i, word in enumerate(answers)
    ]
    example = Example(query, (image(99),), "which?", (gold,), tuple(options), meta=meta)
    query_item: Any = example if gold else example.query
    return Context(query_item, tuple(reversed(demos)), StreamKey(0, query))


@pytest.fixture
def transformed() -> Callable[..., Context]:
    """`transformed(node, ...)`: the context of the other arguments under a transform."""
    return lambda node, *args, **keys: build("transform", node).transform(context(*args, **keys))
