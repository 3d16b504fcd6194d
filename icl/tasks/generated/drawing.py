"""Images of the generated world that are drawn when they are opened. Fixed facts are known before; the rest comes from
a stream.

A `Drawing` is the complete recipe of one image. Equal drawings give the same bytes and share one decoded image. A bank
of drawings that many episodes use is rendered, encoded and embedded once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from icl import PIL, Image, StreamKey
from icl.tasks.generated.ink import SIDE, ZOOM, paint_shape
from icl.tasks.generated.world import (
    COLORS,
    CONCEPTS,
    HELD_OUT_CONCEPTS,
    TRAINING_CONCEPTS,
    Concept,
    ImageFacts,
    Kind,
    ShapeGroup,
    draw,
    scene_groups,
)

CONCEPT_SETS: dict[str, tuple[Concept, ...]] = {
    "held_out": HELD_OUT_CONCEPTS,
    "seen": TRAINING_CONCEPTS,
    "all": CONCEPTS,
}
"""held_out: pairs of color and shape that no training sequence of the embedded model names."""


@dataclass(frozen=True)
class Drawing:
    """A recipe for an image: what it must show, and the stream (seed, name) for everything else."""

    seed: int
    name: str
    kind: Kind
    color: str | None = None
    shape: str | None = None
    texture: str | None = None
    size: str | None = None
    place: str | None = None
    count: int | None = None
    groups: tuple[ShapeGroup, ...] | None = None
    left: int | None = None
    right: int | None = None

    def __call__(self) -> "PIL.Image.Image":
        return self.render()[0]

    def render(self) -> "tuple[PIL.Image.Image, ImageFacts]":
        """The image and all of its facts, also the random ones."""
        return draw(
            StreamKey(self.seed, self.name).numpy("picture"),
            self.kind,
            color=self.color,
            shape=self.shape,
            texture=self.texture,
            size=self.size,
            place=self.place,
            count=self.count,
            groups=self.groups,
            left=self.left,
            right=self.right,
        )

    @property
    def image(self) -> Image:
        return generated_image(self, self.kind, self.seed)


@lru_cache(maxsize=20_000)
def generated_image(recipe: Callable[[], "PIL.Image.Image"], what: str, seed: int) -> Image:
    """One `Image` for each recipe, so its digest is computed once. The origin identifies the image without revealing
    its content.
    """
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    return Image.from_source(recipe, f"generated {what} {digest} (seed {seed})")


CELLS = 9


@dataclass(frozen=True)
class PlacedShapes:
    """A recipe for an image: concepts and their cells, and the stream (seed, name) for sizes and small shifts."""

    seed: int
    name: str
    concepts: tuple[Concept, ...]
    cells: tuple[int, ...]

    def __call__(self) -> "PIL.Image.Image":
        rng = StreamKey(self.seed, self.name).numpy("image")
        ground = (int(rng.integers(228, 256)), int(rng.integers(228, 256)), int(rng.integers(228, 256)))
        canvas = PIL.Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
        for (color, shape), cell in zip(self.concepts, self.cells, strict=True):
            x, y = ((i + 0.5) * SIDE / 3 + float(rng.uniform(-1, 1)) for i in (cell % 3, cell // 3))
            radius = float(rng.uniform(5.5, 7))
            paint_shape(canvas, rng, shape, COLORS[color], "solid", x, y, radius, ground)
        return canvas.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)

    @property
    def image(self) -> Image:
        return generated_image(self, "shapes", self.seed)


def cell_box(cell: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell as shares of the sides."""
    column, row = cell % 3, cell // 3
    return column / 3, row / 3, (column + 1) / 3, (row + 1) / 3


@lru_cache(maxsize=20_000)
def scene(seed: int, name: str, at_least: int = 1) -> Drawing:
    """A scene of one to three groups, and at least `at_least`, with objects by popularity and companionship."""
    rng = StreamKey(seed, name).numpy("groups")
    groups = scene_groups(rng)
    if len(groups) < at_least:
        groups = scene_groups(rng, groups=at_least)
    return Drawing(seed, name, "scene", groups=groups)


def groups_of(drawing: Drawing) -> tuple[ShapeGroup, ...]:
    """The groups of a scene. Empty for another kind of drawing."""
    return drawing.groups or ()


def noun(concept: Concept) -> str:
    """A concept in words: 'red circle'."""
    return " ".join(concept)


LEFT = 22
"""Columns that contain the left digit only."""


@dataclass(frozen=True)
class DigitImage:
    """A recipe for the image of a digit: the digit, and the stream (seed, name) for pen, place and background."""

    seed: int
    name: str
    value: int

    def __call__(self) -> "PIL.Image.Image":
        whole = Drawing(self.seed, self.name, "digits", left=self.value, right=0)()
        ground = whole.getpixel((0, 0))
        assert isinstance(ground, tuple)
        canvas = PIL.Image.new("RGB", (SIDE, SIDE), ground)
        canvas.paste(whole.crop((0, 0, LEFT, SIDE)), ((SIDE - LEFT) // 2, 0))
        return canvas

    @property
    def image(self) -> Image:
        return generated_image(self, "digit", self.seed)
