"""Images with words, drawn when they are opened: a drawing with a label, or words only."""

from dataclasses import dataclass

from PIL import Image as PILImage
from PIL import ImageDraw

from icl import Image, StreamKey
from icl.tasks.generated import RGB, ZOOM, Drawing, Point, generated_image
from icl.tasks.generated.world import SIDE

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
