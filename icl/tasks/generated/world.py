"""A small picture world: coloured shapes, scenes of several kinds of shape, and digits around a question mark.

`draw(rng, kind, ...)` is a pure function of a numpy Generator: the same state gives the same bytes. Nothing here reads
a file or a font. Five kinds of picture, all 64 x 64 RGB:

    single   one shape; its colour, shape, texture, size and place are facts
    plain    one solid circle, rectangle or triangle of any size, in one of eight colours, on a light ground
    count    1 to 5 shapes that are alike; colour, shape, texture and count are facts
    scene    1 to 3 groups of shapes, each group its own (colour, shape) and count, at most 6 shapes
    digits   "a ? b"

A concept is a (colour, shape) pair. Those in `HELD_OUT` are for tests: no training sequence names one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Kind = Literal["single", "plain", "count", "scene", "digits"]
Concept = tuple[str, str]
Point = tuple[float, float]
Ink = tuple[int, int, int]

SIDE = 64
COLOURS: dict[str, Ink] = {
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
MAX_COUNT = 5  # of a "count" picture
MAX_GROUPS, MAX_EACH, MAX_TOTAL = 3, 3, 6  # of a "scene"

PLAIN_COLOURS = tuple(COLOURS)[:8]
PLAIN_SHAPES = SHAPES[:3]
CONCEPTS: tuple[Concept, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT: tuple[Concept, ...] = tuple(
    (colour, shape) for colour in ("red", "teal", "orange", "purple") for shape in ("star", "diamond", "arch", "arrow")
)
SEEN: tuple[Concept, ...] = tuple(concept for concept in CONCEPTS if concept not in HELD_OUT)


@dataclass(frozen=True)
class Group:
    """Shapes of one concept in a picture."""

    colour: str
    shape: str
    count: int

    @property
    def concept(self) -> Concept:
        return self.colour, self.shape


@dataclass(frozen=True)
class Facts:
    """What a picture shows; None where a fact does not apply to its kind."""

    kind: Kind
    groups: tuple[Group, ...] = ()
    texture: str | None = None
    size: str | None = None
    place: str | None = None
    left: int | None = None
    right: int | None = None

    @property
    def colour(self) -> str | None:
        return self.groups[0].colour if len(self.groups) == 1 else None

    @property
    def shape(self) -> str | None:
        return self.groups[0].shape if len(self.groups) == 1 else None

    @property
    def count(self) -> int | None:
        """Number of shapes in the whole picture."""
        return None if self.kind == "digits" else sum(group.count for group in self.groups)

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(group.concept for group in self.groups)

    def number(self, colour: str | None = None, shape: str | None = None) -> int:
        """How many shapes have this colour, this shape, or both."""
        return sum(g.count for g in self.groups if colour in (None, g.colour) and shape in (None, g.shape))


def companion(concept: Concept) -> Concept:
    """The concept that scenes show most often beside this one: the next colour and the next shape."""
    colours = tuple(COLOURS)
    colour, shape = concept
    return colours[(colours.index(colour) + 1) % len(colours)], SHAPES[(SHAPES.index(shape) + 1) % len(SHAPES)]


def popularity(concept: Concept) -> float:
    """Unnormalised frequency of a concept in scenes: a fixed scrambled rank r gives 1 / (r + 8)."""
    return 1.0 / (CONCEPTS.index(concept) * 37 % len(CONCEPTS) + 8)


def scene_groups(
    rng: np.random.Generator, concepts: Sequence[Concept] = CONCEPTS, groups: int | None = None
) -> tuple[Group, ...]:
    """Groups of a scene, drawn by popularity; with probability 0.35 a later one is a companion of the one before."""
    wanted = groups or int(rng.choice((1, 2, 3), p=(0.25, 0.45, 0.30)))
    weights = np.array([popularity(concept) for concept in concepts])
    chosen: list[Concept] = []
    while len(chosen) < min(wanted, len(concepts)):
        concept = concepts[int(rng.choice(len(concepts), p=weights / weights.sum()))]
        if chosen and rng.random() < 0.35 and companion(chosen[-1]) in concepts:
            concept = companion(chosen[-1])
        if concept not in chosen:
            chosen.append(concept)
    counts = [1] * len(chosen)
    for i in range(len(chosen)):
        counts[i] += min(int(rng.choice(MAX_EACH, p=(0.45, 0.35, 0.20))), MAX_TOTAL - sum(counts))
    return tuple(Group(colour, shape, n) for (colour, shape), n in zip(chosen, counts, strict=True))


def draw(
    rng: np.random.Generator,
    kind: Kind,
    *,
    colour: str | None = None,
    shape: str | None = None,
    texture: str | None = None,
    size: str | None = None,
    place: str | None = None,
    count: int | None = None,
    groups: Sequence[Group] | None = None,
    left: int | None = None,
    right: int | None = None,
    concepts: Sequence[Concept] = CONCEPTS,
) -> tuple[Image.Image, Facts]:
    """A picture of this kind and its facts. What is given is fixed, the rest is drawn.

    `concepts` restricts the drawn (colour, shape) pairs; a fixed colour or shape restricts them further, and both
    together override it. A size, place, count, group or digit that the kind does not have is ignored.
    Raises ValueError where no concept is left or a scene is too large.
    """
    ground: Ink = (int(rng.integers(228, 256)), int(rng.integers(228, 256)), int(rng.integers(228, 256)))
    if kind == "digits":
        a = int(rng.integers(10)) if left is None else left
        b = int(rng.integers(10)) if right is None else right
        return _digits(rng, ground, a, b), Facts("digits", left=a, right=b)
    if kind == "scene":
        placed = tuple(groups) if groups is not None else scene_groups(rng, concepts)
        if not 1 <= sum(g.count for g in placed) <= 9:
            raise ValueError("a scene holds 1 to 9 shapes")
        texture = texture or "solid"
    else:
        concept = _concept(rng, kind, colour, shape, concepts)
        n = 1 if kind != "count" else int(rng.integers(1, MAX_COUNT + 1)) if count is None else count
        placed = (Group(*concept, n),)
        texture = "solid" if kind == "plain" else texture or TEXTURES[int(rng.integers(len(TEXTURES)))]
    canvas = Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
    if kind in ("count", "scene"):
        cells = rng.permutation(9)
        alike = [group for group in placed for _ in range(group.count)]
        for group, cell in zip(alike, cells, strict=False):
            x, y = ((i + 0.5) * SIDE / 3 + float(rng.uniform(-2, 2)) for i in (cell % 3, cell // 3))
            _shape(canvas, rng, group.concept, texture, x, y, float(rng.uniform(6.5, 9)), ground)
        return canvas.resize((SIDE, SIDE), Image.Resampling.BILINEAR), Facts(kind, placed, texture)
    if kind == "plain":
        size, radius = None, float(rng.uniform(4, 17))
    else:
        size = size or tuple(SIZES)[int(rng.integers(len(SIZES)))]
        radius = float(rng.uniform(*SIZES[size]))
    x, y = (_coordinate(rng, radius, None if place is None else i) for i in _cell(place))
    _shape(canvas, rng, placed[0].concept, texture, x, y, radius, ground)
    where = PLACES[int(y * 3 // SIDE) * 3 + int(x * 3 // SIDE)]
    return canvas.resize((SIDE, SIDE), Image.Resampling.BILINEAR), Facts(kind, placed, texture, size, where)


ZOOM = 2  # shapes are drawn at twice the size and scaled down, so that edges are smooth


def _concept(
    rng: np.random.Generator, kind: Kind, colour: str | None, shape: str | None, concepts: Sequence[Concept]
) -> Concept:
    if colour is not None and shape is not None:
        return colour, shape
    left = [
        (c, s)
        for c, s in concepts
        if colour in (None, c)
        and shape in (None, s)
        and (kind != "plain" or (c in PLAIN_COLOURS and s in PLAIN_SHAPES))
    ]
    if not left:
        raise ValueError(f"no concept of kind {kind} has colour {colour} and shape {shape}")
    return left[int(rng.integers(len(left)))]


def _cell(place: str | None) -> tuple[int, int]:
    at = 0 if place is None else PLACES.index(place)
    return at % 3, at // 3


def _coordinate(rng: np.random.Generator, radius: float, cell: int | None) -> float:
    """A centre that keeps the shape inside the picture and, if a third of the side is given, inside that third."""
    low, high = (0.0, float(SIDE)) if cell is None else (cell * SIDE / 3, (cell + 1) * SIDE / 3 - 0.01)
    return float(rng.uniform(max(radius, low), max(min(SIDE - radius, high), max(radius, low) + 0.01)))


def _ring(x: float, y: float, r: float, corners: int, inner: float | None = None) -> list[Point]:
    """Corners of a regular polygon, or of a star with inner corners at `inner` of the radius; the first is on top."""
    n = corners if inner is None else 2 * corners
    radii = [r if inner is None or i % 2 == 0 else r * inner for i in range(n)]
    return [(x + q * math.sin(2 * math.pi * i / n), y - q * math.cos(2 * math.pi * i / n)) for i, q in enumerate(radii)]


_CROSS = ((-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1))
_ARROW = ((-1.0, -0.4), (0.0, -0.4), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.4), (-1.0, 0.4))


def _outline(rng: np.random.Generator, shape: str, x: float, y: float, r: float) -> list[Point]:  # noqa: PLR0911
    if shape == "circle":
        return _ring(x, y, r, 24)
    if shape == "star":
        return _ring(x, y, 1.1 * r, 5, inner=0.42)
    if shape == "rectangle":
        a, b = (float(v) * r for v in rng.uniform(0.45, 1, 2))
        return [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]
    if shape == "triangle":
        return [(x - r, y + 0.8 * r), (x + r, y + 0.8 * r), (x, y - 0.93 * r)]
    if shape == "cross":
        return [(x + i * r / 3, y + j * r / 3) for i, j in _CROSS]
    if shape == "diamond":
        return [(x, y - r), (x + 0.75 * r, y), (x, y + r), (x - 0.75 * r, y)]
    if shape == "arch":
        half = [math.pi * (1 + i / 10) for i in range(11)]
        return [(x + r * math.cos(t), y + 0.5 * r + 1.2 * r * math.sin(t)) for t in half]
    return [(x + i * r, y + j * r) for i, j in _ARROW]


def _shape(  # noqa: PLR0917
    canvas: Image.Image,
    rng: np.random.Generator,
    concept: Concept,
    texture: str,
    x: float,
    y: float,
    r: float,
    ground: Ink,
) -> None:
    colour, shape = concept
    points = [(px * ZOOM, py * ZOOM) for px, py in _outline(rng, shape, x, y, r)]
    pen, ink = ImageDraw.Draw(canvas), COLOURS[colour]
    if texture == "solid":
        pen.polygon(points, fill=ink)
    elif texture == "hollow":
        pen.line(points + points[:2], fill=ink, width=max(3, int(0.22 * r * ZOOM)), joint="curve")
    else:
        mask, fill = Image.new("L", canvas.size, 0), Image.new("RGB", canvas.size, ink)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        brush, gap, reach = ImageDraw.Draw(fill), max(3.2, 0.4 * r) * ZOOM, 1.2 * r * ZOOM
        at = [(v * ZOOM - reach + gap * 0.25) for v in (x, y)]
        for j in range(int(2 * reach / gap) + 1):
            top = at[1] + j * gap
            if texture == "striped":
                brush.rectangle((at[0], top, at[0] + 2 * reach, top + gap * 0.45), fill=ground)
                continue
            for i in range(int(2 * reach / gap) + 1):
                brush.ellipse((at[0] + i * gap, top, at[0] + i * gap + gap * 0.5, top + gap * 0.5), fill=ground)
        canvas.paste(fill, (0, 0), mask)


# Strokes of the glyphs on a grid 2 wide and 4 high.
_GLYPHS: dict[str, tuple[tuple[Point, ...], ...]] = {
    "0": (((0.4, 0), (1.6, 0), (2, 0.6), (2, 3.4), (1.6, 4), (0.4, 4), (0, 3.4), (0, 0.6), (0.4, 0)),),
    "1": (((0.3, 0.8), (1.1, 0), (1.1, 4)), ((0.2, 4), (2, 4))),
    "2": (((0, 0.8), (0.4, 0), (1.6, 0), (2, 0.6), (2, 1.4), (0, 4), (2, 4)),),
    "3": (((0, 0), (2, 0), (0.9, 1.6), (1.7, 1.8), (2, 2.5), (2, 3.3), (1.5, 4), (0.4, 4), (0, 3.4)),),
    "4": (((1.5, 4), (1.5, 0), (0, 2.8), (2, 2.8)),),
    "5": (((2, 0), (0.2, 0), (0.1, 1.7), (1.5, 1.7), (2, 2.2), (2, 3.4), (1.5, 4), (0, 4)),),
    "6": (
        (
            (1.8, 0),
            (0.7, 0.8),
            (0, 2.4),
            (0, 3.4),
            (0.5, 4),
            (1.5, 4),
            (2, 3.4),
            (2, 2.6),
            (1.5, 2),
            (0.5, 2),
            (0, 2.6),
        ),
    ),
    "7": (((0, 0), (2, 0), (0.7, 4)),),
    "8": (
        ((0.5, 0), (1.5, 0), (1.9, 0.5), (1.9, 1.4), (1.5, 1.9), (0.5, 1.9), (0.1, 1.4), (0.1, 0.5), (0.5, 0)),
        ((0.5, 1.9), (1.5, 1.9), (2, 2.5), (2, 3.4), (1.5, 4), (0.5, 4), (0, 3.4), (0, 2.5), (0.5, 1.9)),
    ),
    "9": (
        (
            (2, 1.4),
            (1.5, 2),
            (0.5, 2),
            (0, 1.4),
            (0, 0.6),
            (0.5, 0),
            (1.5, 0),
            (2, 0.6),
            (2, 1.6),
            (1.3, 3.2),
            (0.3, 4),
        ),
    ),
    "?": (((0, 0.8), (0.5, 0), (1.5, 0), (2, 0.6), (2, 1.2), (1, 2), (1, 2.8)), ((1, 3.7), (1, 4))),
}


def _digits(rng: np.random.Generator, ground: Ink, left: int, right: int) -> Image.Image:
    canvas = Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
    pen, scale = ImageDraw.Draw(canvas), float(rng.uniform(4.6, 5.6)) * ZOOM
    ink: Ink = (int(rng.integers(90)), int(rng.integers(90)), int(rng.integers(90)))
    x0, y0 = (float(rng.uniform(low, high)) * ZOOM for low, high in ((4, 8), (12, 30)))
    for i, glyph in enumerate((str(left), "?", str(right))):
        for stroke in _GLYPHS[glyph]:
            points = [(x0 + i * 22 * ZOOM + px * scale, y0 + py * scale) for px, py in stroke]
            pen.line(points, fill=ink, width=int(2.4 * ZOOM), joint="curve")
    return canvas.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
