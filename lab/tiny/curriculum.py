"""The curriculum of the decoder: the share of each lesson, numbers of turns, prompt layouts."""

from collections.abc import Callable

import numpy as np

from lab.tiny.index import PoolIndex
from lab.tiny.layout import Batch, PromptLayout, TokenTurn
from lab.tiny.lessons import (
    BINDING_SHARES,
    NAMES,
    OTHER_LABELS,
    Rng,
    ask,
    attribute,
    bare,
    bind,
    copy,
    describe,
    operator,
)
from lab.tiny.questions import choose

SHARES = {
    "bind": 5.2,
    "ask": 2.4,
    "single": 1.8,
    "attribute": 1.0,
    "operator": 1.2,
    "bare": 0.5,
    "describe": 1.4,
    "copy": 0.3,
    "blind": 0.2,
}
TURNS = 150  # per batch, so that batches cost the same
MAX_TURNS = 17  # sixteen demonstrations and a query


def number_of_turns(rng: Rng, least: int = 2) -> int:
    """The number of turns: nine half of the time, otherwise any number up to 17."""
    return 9 if rng.random() < 0.5 else int(rng.integers(least, MAX_TURNS + 1))


def draw_layout(rng: Rng) -> PromptLayout:
    """A prompt layout: mostly chat, image first, no instruction."""
    instruction = ("none", "short", "long")[int(rng.choice(3, p=(0.78, 0.12, 0.10)))]
    return PromptLayout(chat=rng.random() < 0.7, text_first=rng.random() < 0.15, instruction=instruction)


def draw_binding(rng: Rng, early: bool) -> tuple[str, int]:
    """The kind and the number of concepts."""
    kinds, shares = tuple(BINDING_SHARES), tuple(BINDING_SHARES.values())
    kind = "pair" if early else kinds[int(rng.choice(len(kinds), p=shares))]
    if early and rng.random() < 0.5:
        return kind, 2
    return kind, int(rng.choice((1, 2, 3, 4, 6, 8), p=(0.02, 0.30, 0.12, 0.24, 0.14, 0.18)))


def draw_batch(rng: Rng, index: PoolIndex, lesson: str, early: bool = False) -> Batch:
    """One batch of a lesson. `early`: binding keeps to concepts, half of the time to two of them."""
    layout, turns = draw_layout(rng), number_of_turns(rng)
    rows = max(6, TURNS // turns)
    make: Callable[[], list[TokenTurn]]
    if lesson == "bind":
        kind, ways = draw_binding(rng, early)
        hint = rng.random() < 0.5
        labels = NAMES if rng.random() < 0.82 else choose(rng, OTHER_LABELS)
        make = lambda: bind(rng, index, ways, turns, kind, hint, labels=labels)  # noqa: E731
    elif lesson == "ask":
        make = lambda: ask(rng, index, turns)  # noqa: E731
    elif lesson == "single":
        rows = 100
        make = lambda: (describe if rng.integers(5) == 4 else ask)(rng, index, 1)  # noqa: E731
    elif lesson == "describe":
        turns = int(rng.integers(1, 5)) if rng.random() < 0.5 else int(rng.integers(1, MAX_TURNS + 1))
        rows = max(4, TURNS // 2 // turns)
        make = lambda: describe(rng, index, turns)  # noqa: E731
    elif lesson == "blind":
        layout = PromptLayout(layout.chat, layout.text_first, layout.instruction, images=False)
        few = int(rng.integers(1, 6))
        rows = TURNS // 2 // few
        make = lambda: (describe if rng.integers(3) == 2 else ask)(rng, index, few)  # noqa: E731
    elif lesson == "copy":
        make = lambda: copy(rng, turns)  # noqa: E731
    elif lesson == "operator":
        names_operator = rng.random() < 0.3
        make = lambda: operator(rng, index, turns, names_operator)  # noqa: E731
    else:
        maker = attribute if lesson == "attribute" else bare
        make = lambda: maker(rng, index, turns)  # noqa: E731
    return Batch([make() for _ in range(rows)], layout)


def draw_lesson(rng: Rng) -> str:
    """The name of a lesson, by its share."""
    shares = np.array(tuple(SHARES.values()))
    return tuple(SHARES)[int(rng.choice(len(SHARES), p=shares / shares.sum()))]
