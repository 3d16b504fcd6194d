"""Questions about one image, as turns: color and shape, properties, numbers, existence, digits, captions.

Each maker takes (rng, index, image) and gives a turn, so that demonstrations can be drawn by chance or by likeness.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from icl.tasks.generated import wording as w
from icl.tasks.generated.world import COLORS, SHAPES, TRAINING_CONCEPTS, ShapeGroup
from lab.tiny.index import PoolIndex
from lab.tiny.layout import TokenTurn
from lab.tiny.vocabulary import encode

Maker = Callable[[np.random.Generator, PoolIndex, int], TokenTurn]
T = TypeVar("T")
HUES = tuple(COLORS)
NUMBERS = tuple(encode(str(i)) for i in range(10))
YES_NO = (encode("yes"), encode("no"))


def choose(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.integers(len(items)))]


def turn(image: int, question: str, answer: str, options: Sequence[str] = ()) -> TokenTurn:
    """A turn from texts."""
    return TokenTurn(image, encode(question), encode(answer), options=tuple(encode(o) for o in options))


def plain_color(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """The color of the one shape."""
    color, shape = index.concept(image)
    return turn(image, choose(rng, w.PLAIN_COLOR_QUESTIONS).format(shape=shape), color, HUES)


def plain_shape(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """The shape of the one shape."""
    color, shape = index.concept(image)
    return turn(image, choose(rng, w.PLAIN_SHAPE_QUESTIONS).format(color=color), shape, SHAPES)


def plain_yes_no(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """Whether there is (not) a color or a shape; half of them are present."""
    color, shape = index.concept(image)
    there = rng.random() < 0.5
    if rng.random() < 0.6:
        noun = (color if there else choose(rng, [c for c in HUES if c != color])) + " shape"
    else:
        noun = shape if there else choose(rng, [s for s in SHAPES if s != shape])
    asks = rng.random() < 0.5
    templates = w.PLAIN_YES_QUESTIONS if asks else w.PLAIN_NO_QUESTIONS
    return turn(image, choose(rng, templates).format(noun=noun), "yes" if there == asks else "no", ("yes", "no"))


def prop(name: str) -> Maker:
    """A function that makes questions about the texture, size or place of the one shape."""

    def make(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
        return turn(
            image, choose(rng, w.PROPERTY_QUESTIONS[name]), w.VALUES[name][index.fact(image, name)], w.VALUES[name]
        )

    return make


def number(by: str) -> Maker:
    """The number of shapes: of a color, a shape, both or all, mostly present ones."""

    def make(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
        groups, there = index.groups[image], rng.random() < 0.7
        if by == "all":
            return turn(image, choose(rng, w.COUNT_ALL), str(index.fact(image, "count")))
        if by == "color":
            color = choose(rng, groups)[0] if there else choose(rng, HUES)
            return turn(image, choose(rng, w.COUNT_BY_COLOR).format(color=color), str(index.fact(image, f"n_{color}")))
        if by == "shape":
            shape = choose(rng, groups)[1] if there else choose(rng, SHAPES)
            return turn(
                image,
                choose(rng, w.COUNT_BY_SHAPE).format(plural=w.plural(shape)),
                str(index.fact(image, f"n_{shape}")),
            )
        color, shape = choose(rng, groups)[:2] if there else _absent(rng, index, image)
        question = choose(rng, w.COUNT_BY_BOTH).format(color=color, plural=w.plural(shape))
        return turn(image, question, str(index.fact(image, f"n_{color}_{shape}")))

    return make


def _absent(rng: np.random.Generator, index: PoolIndex, image: int) -> tuple[str, str]:
    """A training concept that is not in the image; half of the time its color or shape is."""
    concepts = {group[:2] for group in index.groups[image]}
    near = rng.random() < 0.5
    colors, shapes = {c for c, _ in concepts}, {s for _, s in concepts}
    fit = [p for p in TRAINING_CONCEPTS if p not in concepts and (not near or p[0] in colors or p[1] in shapes)]
    return choose(rng, fit)


def existence(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """Whether a concept is in the scene: half yes; in half of the others its color or shape is present."""
    there = rng.random() < 0.5
    color, shape = choose(rng, index.groups[image])[:2] if there else _absent(rng, index, image)
    question = choose(rng, w.EXISTENCE_QUESTIONS).format(noun=w.with_article(f"{color} {shape}"))
    return turn(image, question, "yes" if there else "no", ("yes", "no"))


def digit(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """The left or the right digit."""
    side = choose(rng, ("left", "right"))
    return turn(image, choose(rng, w.DIGIT_QUESTIONS).format(side=side), str(index.fact(image, side)))


def named_operator(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """The result of an operator that the question names."""
    name = choose(rng, w.OPERATORS)
    return turn(image, choose(rng, w.NAMED_OPERATOR_QUESTIONS).format(operator=name), str(index.result(image, name)))


def caption(rng: np.random.Generator, index: PoolIndex, image: int) -> TokenTurn:
    """The caption of an image."""
    return turn(
        image, choose(rng, w.CAPTION_QUESTIONS), w.caption([ShapeGroup(*group) for group in index.groups[image]])
    )


# Name -> (share, kinds of image, maker).
QUESTIONS: dict[str, tuple[float, tuple[str, ...], Maker]] = {
    "plain_color": (2.0, ("plain", "plain", "single"), plain_color),
    "plain_shape": (2.0, ("plain", "plain", "single"), plain_shape),
    "plain_yes_no": (3.0, ("plain", "plain", "single"), plain_yes_no),
    "texture": (1.0, ("single", "count"), prop("texture")),
    "size": (0.6, ("single",), prop("size")),
    "place": (0.4, ("single",), prop("place")),
    "count_all": (0.7, ("count", "scene"), number("all")),
    "count_color": (0.8, ("scene", "scene", "count"), number("color")),
    "count_shape": (0.8, ("scene", "scene", "count"), number("shape")),
    "count_both": (0.8, ("scene", "scene", "count"), number("both")),
    "existence": (2.0, ("scene",), existence),
    "digit": (0.6, ("digits",), digit),
    "named_operator": (0.8, ("ordered",), named_operator),
}
