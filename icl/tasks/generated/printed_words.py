"""Images with words, drawn when they are opened: a drawing with a label, or words only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.images import Image
from icl.streams import StreamKey
from icl.tasks.generated.drawing import Drawing, generated_image
from icl.tasks.generated.letters import print_word, width
from icl.tasks.generated.world import SIDE

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

RED = (220, 0, 0)


@dataclass(frozen=True)
class LabeledDrawing:
    """A recipe for a drawing in the middle and a word at the upper or lower edge."""

    drawing: Drawing
    word: str

    def __call__(self) -> "PILImage":
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

    def __call__(self) -> "PILImage":
        from PIL import Image as PILImage

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
