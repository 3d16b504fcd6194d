"""Images of the generated world that are drawn when they are opened. Fixed facts are known before; the rest comes from
a stream.

A `Drawing` is the complete recipe of one image. Equal drawings give the same bytes and share one decoded image. A bank
of drawings that many episodes use is rendered, encoded and embedded once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image as PILImage
from PIL import ImageDraw

from icl import PIL, Image, StreamKey
from icl.tasks.generated import RGB, Point
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


# Images with words, drawn when they are opened: a drawing with a label, or words only.


RED = (220, 0, 0)


@dataclass(frozen=True)
class LabeledDrawing:
    """A recipe for a drawing in the middle and a word at the upper or lower edge."""

    drawing: Drawing
    word: str

    def __call__(self) -> PILImage.Image:
        rng = StreamKey(self.drawing.seed, self.drawing.name).numpy("label")
        unit = min(1.9, (SIDE - 8) / width(self.word, 1))
        left = float(rng.uniform(4, SIDE - 4 - width(self.word, unit)))
        top = 3.5 if rng.random() < 0.5 else SIDE - 3.5 - 4 * unit
        return print_word(self.drawing(), self.word, (left, top), unit)

    @property
    def image(self) -> Image:
        return generated_image(self, "words", self.drawing.seed)


@dataclass(frozen=True)
class WordImage:
    """A recipe for words below each other in random places, one of them (`boxed`) in a red box."""

    seed: int
    name: str
    words: tuple[str, ...]
    boxed: int

    def __call__(self) -> PILImage.Image:
        rng = StreamKey(self.seed, self.name).numpy("picture")
        ground = tuple(int(level) for level in rng.integers(190, 236, 3))
        image = PILImage.new("RGB", (SIDE, SIDE), ground)
        line = SIDE / len(self.words)
        order = rng.permutation(len(self.words))
        for place, which in enumerate(order):
            word = self.words[which]
            unit = min(2.2, (line - 9) / 4, (SIDE - 12) / width(word, 1))
            left = float(rng.uniform(6, SIDE - 6 - width(word, unit)))
            top = place * line + (line - 4 * unit) / 2
            image = print_word(image, word, (left, top), unit, frame=RED if which == self.boxed else None)
        return image

    @property
    def image(self) -> Image:
        return generated_image(self, "words", self.seed)


BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)

# Strokes of the capitals on a grid 2 wide and 4 high.
_LETTERS: dict[str, tuple[tuple[Point, ...], ...]] = {
    "A": (((0, 4), (1, 0), (2, 4)), ((0.4, 2.6), (1.6, 2.6))),
    "B": (((0, 0), (0, 4), (1.5, 4), (2, 3.4), (2, 2.6), (1.5, 2), (0, 2)), ((0, 0), (1.4, 0), (1.8, 0.5), (1.4, 2))),
    "C": (((2, 0.6), (1.5, 0), (0.5, 0), (0, 0.7), (0, 3.3), (0.5, 4), (1.5, 4), (2, 3.4)),),
    "D": (((0, 0), (0, 4), (1.2, 4), (2, 3.1), (2, 0.9), (1.2, 0), (0, 0)),),
    "E": (((2, 0), (0, 0), (0, 4), (2, 4)), ((0, 2), (1.5, 2))),
    "F": (((2, 0), (0, 0), (0, 4)), ((0, 2), (1.5, 2))),
    "G": (((2, 0.6), (1.5, 0), (0.5, 0), (0, 0.7), (0, 3.3), (0.5, 4), (1.5, 4), (2, 3.4), (2, 2.2), (1.1, 2.2)),),
    "H": (((0, 0), (0, 4)), ((2, 0), (2, 4)), ((0, 2), (2, 2))),
    "I": (((1, 0), (1, 4)), ((0.4, 0), (1.6, 0)), ((0.4, 4), (1.6, 4))),
    "J": (((2, 0), (2, 3.3), (1.5, 4), (0.5, 4), (0, 3.3)),),
    "K": (((0, 0), (0, 4)), ((2, 0), (0, 2.2), (2, 4))),
    "L": (((0, 0), (0, 4), (2, 4)),),
    "M": (((0, 4), (0, 0), (1, 2), (2, 0), (2, 4)),),
    "N": (((0, 4), (0, 0), (2, 4), (2, 0)),),
    "O": (((0.5, 0), (1.5, 0), (2, 0.7), (2, 3.3), (1.5, 4), (0.5, 4), (0, 3.3), (0, 0.7), (0.5, 0)),),
    "P": (((0, 4), (0, 0), (1.5, 0), (2, 0.6), (2, 1.6), (1.5, 2.2), (0, 2.2)),),
    "Q": (
        ((0.5, 0), (1.5, 0), (2, 0.7), (2, 3.3), (1.5, 4), (0.5, 4), (0, 3.3), (0, 0.7), (0.5, 0)),
        ((1.2, 3), (2.1, 4.2)),
    ),
    "R": (((0, 4), (0, 0), (1.5, 0), (2, 0.6), (2, 1.6), (1.5, 2.1), (0, 2.1)), ((1, 2.1), (2, 4))),
    "S": (((2, 0.6), (1.5, 0), (0.5, 0), (0, 0.6), (0, 1.4), (2, 2.6), (2, 3.4), (1.5, 4), (0.5, 4), (0, 3.4)),),
    "T": (((0, 0), (2, 0)), ((1, 0), (1, 4))),
    "U": (((0, 0), (0, 3.3), (0.5, 4), (1.5, 4), (2, 3.3), (2, 0)),),
    "V": (((0, 0), (1, 4), (2, 0)),),
    "W": (((0, 0), (0.4, 4), (1, 1.8), (1.6, 4), (2, 0)),),
    "X": (((0, 0), (2, 4)), ((2, 0), (0, 4))),
    "Y": (((0, 0), (1, 2), (2, 0)), ((1, 2), (1, 4))),
    "Z": (((0, 0), (2, 0), (0, 4), (2, 4)),),
}


def width(word: str, unit: float) -> float:
    """Width of a word in pixels. A letter is 2 units wide, and letters are 1 unit apart."""
    return unit * (3 * len(word) - 1)


def print_word(image: PILImage.Image, word: str, at: Point, unit: float, frame: RGB | None = None) -> PILImage.Image:
    """The image with a black word on a white label. Raises KeyError for a character that is not a letter.

    Args:
        at: Left and top of the word in pixels.
        unit: Pixels of a unit. Letters are 2 x 4 units.
        frame: Color of a box around the word.
    """
    canvas = image.resize((image.width * ZOOM, image.height * ZOOM), PILImage.Resampling.NEAREST)
    pen, scale, edge = ImageDraw.Draw(canvas), unit * ZOOM, 1.2 * unit * ZOOM
    x, y = (place * ZOOM for place in at)
    label = (x - edge, y - edge, x + width(word, unit) * ZOOM + edge, y + 4 * scale + edge)
    pen.rectangle(label, fill=WHITE, outline=frame, width=2 * ZOOM if frame else 0)
    for i, letter in enumerate(word.upper()):
        for stroke in _LETTERS[letter]:
            points = [(x + (3 * i + across) * scale, y + down * scale) for across, down in stroke]
            pen.line(points, fill=BLACK, width=max(1, round(0.75 * scale)), joint="curve")
    return canvas.resize(image.size, PILImage.Resampling.BILINEAR)
