"""A small image world: colored shapes, scenes of several kinds of shape, and digits around a question mark.

`draw(rng, kind, ...)` is a pure function of a numpy Generator: the same state gives the same bytes, without files or
fonts. There are five kinds of image, all 64 x 64 RGB:

    single   one shape; its color, shape, texture, size and place are facts
    plain    one solid circle, rectangle or triangle of any size, in one of eight colors, on a light background
    count    1 to 5 equal shapes; color, shape, texture and count are facts
    scene    1 to 3 groups of shapes, each with its own (color, shape) and count, at most 6 shapes
    digits   "a ? b"

A concept is a (color, shape) pair. Concepts in `HELD_OUT` are for tests: no training sequence names one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from icl.tasks.generated.ink import RGB, ZOOM, paint_digits, paint_shape
from icl.tasks.generated.ink import SIDE as SIDE  # noqa: PLC0414 (world.SIDE, the side of every image)

Kind = Literal["single", "plain", "count", "scene", "digits"]
Concept = tuple[str, str]

COLORS: dict[str, RGB] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
    "orange": (255, 150, 0),
    "purple": (150, 40, 220),
}
SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "diamond", "arch", "arrow")
TEXTURES = ("solid", "striped", "dotted", "hollow")
SIZES: dict[str, tuple[float, float]] = {
    "small": (6.5, 8.5),
    "medium": (10.5, 12.5),
    "large": (15.0, 18.0),
}  # radii in pixels
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
KINDS: tuple[Kind, ...] = ("single", "plain", "count", "scene", "digits")
MAX_COUNT = 5  # shapes in a "count" image
MAX_GROUPS, MAX_EACH, MAX_TOTAL = 3, 3, 6  # bounds of a "scene"

PLAIN_COLORS = tuple(COLORS)[:8]
PLAIN_SHAPES = SHAPES[:3]
CONCEPTS: tuple[Concept, ...] = tuple((color, shape) for color in COLORS for shape in SHAPES)
HELD_OUT_CONCEPTS: tuple[Concept, ...] = tuple(
    (color, shape) for color in ("red", "teal", "orange", "purple") for shape in ("star", "diamond", "arch", "arrow")
)
TRAINING_CONCEPTS: tuple[Concept, ...] = tuple(concept for concept in CONCEPTS if concept not in HELD_OUT_CONCEPTS)


@dataclass(frozen=True)
class ShapeGroup:
    """Shapes of one concept in an image."""

    color: str
    shape: str
    count: int

    @property
    def concept(self) -> Concept:
        return self.color, self.shape


@dataclass(frozen=True)
class ImageFacts:
    """The facts that an image shows. None for facts that do not apply to its kind."""

    kind: Kind
    groups: tuple[ShapeGroup, ...] = ()
    texture: str | None = None
    size: str | None = None
    place: str | None = None
    left: int | None = None
    right: int | None = None

    @property
    def color(self) -> str | None:
        return self.groups[0].color if len(self.groups) == 1 else None

    @property
    def shape(self) -> str | None:
        return self.groups[0].shape if len(self.groups) == 1 else None

    @property
    def count(self) -> int | None:
        """Number of shapes in the whole image."""
        return None if self.kind == "digits" else sum(group.count for group in self.groups)

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(group.concept for group in self.groups)

    def number(self, color: str | None = None, shape: str | None = None) -> int:
        """Number of shapes with this color, this shape, or both."""
        return sum(g.count for g in self.groups if color in (None, g.color) and shape in (None, g.shape))


def companion(concept: Concept) -> Concept:
    """The concept that occurs most often with this one in scenes: the next color and the next shape."""
    colors = tuple(COLORS)
    color, shape = concept
    return colors[(colors.index(color) + 1) % len(colors)], SHAPES[(SHAPES.index(shape) + 1) % len(SHAPES)]


def popularity(concept: Concept) -> float:
    """Unnormalized frequency of a concept in scenes: 1 / (r + 8) for a fixed scrambled rank r."""
    return 1.0 / (CONCEPTS.index(concept) * 37 % len(CONCEPTS) + 8)


def scene_groups(
    rng: np.random.Generator, concepts: Sequence[Concept] = CONCEPTS, groups: int | None = None
) -> tuple[ShapeGroup, ...]:
    """Groups of a scene, drawn by popularity. With probability 0.35, a group is a companion of the one before."""
    target = groups or int(rng.choice((1, 2, 3), p=(0.25, 0.45, 0.30)))
    weights = np.array([popularity(concept) for concept in concepts])
    chosen: list[Concept] = []
    while len(chosen) < min(target, len(concepts)):
        concept = concepts[int(rng.choice(len(concepts), p=weights / weights.sum()))]
        if chosen and rng.random() < 0.35 and companion(chosen[-1]) in concepts:
            concept = companion(chosen[-1])
        if concept not in chosen:
            chosen.append(concept)
    counts = [1] * len(chosen)
    for i in range(len(chosen)):
        counts[i] += min(int(rng.choice(MAX_EACH, p=(0.45, 0.35, 0.20))), MAX_TOTAL - sum(counts))
    return tuple(ShapeGroup(color, shape, n) for (color, shape), n in zip(chosen, counts, strict=True))


def draw(
    rng: np.random.Generator,
    kind: Kind,
    *,
    color: str | None = None,
    shape: str | None = None,
    texture: str | None = None,
    size: str | None = None,
    place: str | None = None,
    count: int | None = None,
    groups: Sequence[ShapeGroup] | None = None,
    left: int | None = None,
    right: int | None = None,
    concepts: Sequence[Concept] = CONCEPTS,
) -> tuple[PILImage.Image, ImageFacts]:
    """An image of this kind and its facts. Arguments fix facts; the others are random.

    `concepts` restricts the random (color, shape) pairs. A fixed color or shape restricts them further, and both
    together override them. A size, place, count, group or digit that the kind does not have is ignored.

    Raises:
        ValueError: No concept is left, or a scene is too large.
    """
    ground: RGB = (int(rng.integers(228, 256)), int(rng.integers(228, 256)), int(rng.integers(228, 256)))
    if kind == "digits":
        a = int(rng.integers(10)) if left is None else left
        b = int(rng.integers(10)) if right is None else right
        return paint_digits(rng, ground, a, b), ImageFacts("digits", left=a, right=b)
    if kind == "scene":
        placed = tuple(groups) if groups is not None else scene_groups(rng, concepts)
        if not 1 <= sum(g.count for g in placed) <= 9:
            raise ValueError("a scene holds 1 to 9 shapes")
        texture = texture or "solid"
    else:
        concept = _concept(rng, kind, color, shape, concepts)
        n = 1 if kind != "count" else int(rng.integers(1, MAX_COUNT + 1)) if count is None else count
        placed = (ShapeGroup(*concept, n),)
        texture = "solid" if kind == "plain" else texture or TEXTURES[int(rng.integers(len(TEXTURES)))]
    canvas = PILImage.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
    if kind in ("count", "scene"):
        cells = rng.permutation(9)
        shapes = [group for group in placed for _ in range(group.count)]
        for group, cell in zip(shapes, cells, strict=False):
            x, y = ((i + 0.5) * SIDE / 3 + float(rng.uniform(-2, 2)) for i in (cell % 3, cell // 3))
            paint_shape(
                canvas, rng, group.shape, COLORS[group.color], texture, x, y, float(rng.uniform(6.5, 9)), ground
            )
        return canvas.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR), ImageFacts(kind, placed, texture)
    if kind == "plain":
        size, radius = None, float(rng.uniform(4, 17))
    else:
        size = size or tuple(SIZES)[int(rng.integers(len(SIZES)))]
        radius = float(rng.uniform(*SIZES[size]))
    x, y = (_coordinate(rng, radius, None if place is None else i) for i in _cell(place))
    paint_shape(canvas, rng, placed[0].shape, COLORS[placed[0].color], texture, x, y, radius, ground)
    where = PLACES[int(y * 3 // SIDE) * 3 + int(x * 3 // SIDE)]
    return canvas.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR), ImageFacts(kind, placed, texture, size, where)


def _concept(
    rng: np.random.Generator, kind: Kind, color: str | None, shape: str | None, concepts: Sequence[Concept]
) -> Concept:
    if color is not None and shape is not None:
        return color, shape
    left = [
        (c, s)
        for c, s in concepts
        if color in (None, c) and shape in (None, s) and (kind != "plain" or (c in PLAIN_COLORS and s in PLAIN_SHAPES))
    ]
    if not left:
        raise ValueError(f"no concept of kind {kind} has color {color} and shape {shape}")
    return left[int(rng.integers(len(left)))]


def _cell(place: str | None) -> tuple[int, int]:
    at = 0 if place is None else PLACES.index(place)
    return at % 3, at // 3


def _coordinate(rng: np.random.Generator, radius: float, cell: int | None) -> float:
    """A center that keeps the shape inside the image and, if a third of the side is given, inside that third."""
    low, high = (0.0, float(SIDE)) if cell is None else (cell * SIDE / 3, (cell + 1) * SIDE / 3 - 0.01)
    return float(rng.uniform(max(radius, low), max(min(SIDE - radius, high), max(radius, low) + 0.01)))
