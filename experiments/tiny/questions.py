"""Questions that one picture answers, as turns: plain ones, properties, numbers, existence, digits, captions.

Each maker takes (rng, index, picture) and gives a turn, so that demonstrations can be drawn by chance or by likeness.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from experiments.tiny.index import Index
from experiments.tiny.layout import Turn
from experiments.tiny.vocabulary import encode
from icl.tasks.generated import wording as w
from icl.tasks.generated.world import COLOURS, SEEN, SHAPES, Group

Maker = Callable[[np.random.Generator, Index, int], Turn]
T = TypeVar("T")
HUES = tuple(COLOURS)
NUMBERS = tuple(encode(str(i)) for i in range(10))
YES_NO = (encode("yes"), encode("no"))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.integers(len(items)))]


def turn(picture: int, question: str, answer: str, options: Sequence[str] = ()) -> Turn:
    """A turn from texts."""
    return Turn(picture, encode(question), encode(answer), options=tuple(encode(o) for o in options))


def plain_colour(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """The colour of the one shape."""
    colour, shape = index.concept(picture)
    return turn(picture, pick(rng, w.PLAIN_COLOUR_QUESTIONS).format(shape=shape), colour, HUES)


def plain_shape(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """The shape of the one shape."""
    colour, shape = index.concept(picture)
    return turn(picture, pick(rng, w.PLAIN_SHAPE_QUESTIONS).format(colour=colour), shape, SHAPES)


def plain_yes_no(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """Is there (not) a colour, or a shape; half of them are there."""
    colour, shape = index.concept(picture)
    there = rng.random() < 0.5
    if rng.random() < 0.6:
        noun = (colour if there else pick(rng, [c for c in HUES if c != colour])) + " shape"
    else:
        noun = shape if there else pick(rng, [s for s in SHAPES if s != shape])
    asks = rng.random() < 0.5
    templates = w.PLAIN_YES_QUESTIONS if asks else w.PLAIN_NO_QUESTIONS
    return turn(picture, pick(rng, templates).format(noun=noun), "yes" if there == asks else "no", ("yes", "no"))


def prop(name: str) -> Maker:
    """A maker of questions after the texture, size or place of the one shape."""

    def make(rng: np.random.Generator, index: Index, picture: int) -> Turn:
        return turn(
            picture, pick(rng, w.PROPERTY_QUESTIONS[name]), w.VALUES[name][index.fact(picture, name)], w.VALUES[name]
        )

    return make


def number(by: str) -> Maker:
    """How many shapes there are: of a colour, a shape, both or all. Mostly of what is there."""

    def make(rng: np.random.Generator, index: Index, picture: int) -> Turn:
        shown, there = index.groups[picture], rng.random() < 0.7
        if by == "all":
            return turn(picture, pick(rng, w.COUNT_ALL), str(index.fact(picture, "count")))
        if by == "colour":
            colour = pick(rng, shown)[0] if there else pick(rng, HUES)
            return turn(
                picture, pick(rng, w.COUNT_BY_COLOUR).format(colour=colour), str(index.fact(picture, f"n_{colour}"))
            )
        if by == "shape":
            shape = pick(rng, shown)[1] if there else pick(rng, SHAPES)
            return turn(
                picture,
                pick(rng, w.COUNT_BY_SHAPE).format(plural=w.plural(shape)),
                str(index.fact(picture, f"n_{shape}")),
            )
        colour, shape = pick(rng, shown)[:2] if there else _absent(rng, index, picture)
        question = pick(rng, w.COUNT_BY_BOTH).format(colour=colour, plural=w.plural(shape))
        return turn(picture, question, str(index.fact(picture, f"n_{colour}_{shape}")))

    return make


def _absent(rng: np.random.Generator, index: Index, picture: int) -> tuple[str, str]:
    """A seen concept that is not in the picture; half of the time one of its halves is."""
    shown = {group[:2] for group in index.groups[picture]}
    near = rng.random() < 0.5
    colours, shapes = {c for c, _ in shown}, {s for _, s in shown}
    fit = [p for p in SEEN if p not in shown and (not near or p[0] in colours or p[1] in shapes)]
    return pick(rng, fit)


def existence(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """Is there a concept in the scene; half of the answers are yes, half of the others have a half of it there."""
    there = rng.random() < 0.5
    colour, shape = pick(rng, index.groups[picture])[:2] if there else _absent(rng, index, picture)
    question = pick(rng, w.EXISTENCE_QUESTIONS).format(noun=w.with_article(f"{colour} {shape}"))
    return turn(picture, question, "yes" if there else "no", ("yes", "no"))


def digit(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """The left or the right digit."""
    side = pick(rng, ("left", "right"))
    return turn(picture, pick(rng, w.DIGIT_QUESTIONS).format(side=side), str(index.fact(picture, side)))


def told_operator(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """The result of an operator that the question names."""
    name = pick(rng, w.OPERATORS)
    return turn(picture, pick(rng, w.TOLD_OPERATOR_QUESTIONS).format(operator=name), str(index.result(picture, name)))


def caption(rng: np.random.Generator, index: Index, picture: int) -> Turn:
    """The caption of a picture."""
    return turn(picture, pick(rng, w.CAPTION_QUESTIONS), w.caption([Group(*group) for group in index.groups[picture]]))


# Name -> (share, kinds of picture, maker).
QUESTIONS: dict[str, tuple[float, tuple[str, ...], Maker]] = {
    "plain_colour": (2.0, ("plain", "plain", "single"), plain_colour),
    "plain_shape": (2.0, ("plain", "plain", "single"), plain_shape),
    "plain_yes_no": (3.0, ("plain", "plain", "single"), plain_yes_no),
    "texture": (1.0, ("single", "count"), prop("texture")),
    "size": (0.6, ("single",), prop("size")),
    "place": (0.4, ("single",), prop("place")),
    "count_all": (0.7, ("count", "scene"), number("all")),
    "count_colour": (0.8, ("scene", "scene", "count"), number("colour")),
    "count_shape": (0.8, ("scene", "scene", "count"), number("shape")),
    "count_both": (0.8, ("scene", "scene", "count"), number("both")),
    "existence": (2.0, ("scene",), existence),
    "digit": (0.6, ("digits",), digit),
    "told_operator": (0.8, ("ordered",), told_operator),
}
