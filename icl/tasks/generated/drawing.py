"""Images of the world that are drawn when somebody looks: what is fixed is known at once, the rest follows a stream.

A `Drawing` is the whole recipe of one image. Equal drawings are the same bytes and share one decoded image; a bank
of drawings that many episodes use is rendered, encoded and embedded once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from icl.images import Image
from icl.streams import StreamKey
from icl.tasks.generated.world import CONCEPTS, HELD_OUT_CONCEPTS, TRAINING_CONCEPTS, Concept, Kind, ShapeGroup, draw

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

CONCEPT_SETS: dict[str, tuple[Concept, ...]] = {
    "held_out": HELD_OUT_CONCEPTS,
    "seen": TRAINING_CONCEPTS,
    "all": CONCEPTS,
}
"""held_out: pairs of color and shape that no training sequence of the embedded model names."""


@dataclass(frozen=True)
class Drawing:
    """A recipe: what an image must show, and the stream (seed, name) that draws whatever is not fixed."""

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

    def __call__(self) -> "PILImage":
        image, _ = draw(
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
        return image

    @property
    def image(self) -> Image:
        return generated_image(self, self.kind, self.seed)


@lru_cache(maxsize=20_000)
def generated_image(recipe: Callable[[], "PILImage"], what: str, seed: int) -> Image:
    """One `Image` a recipe: its digest is computed once. The origin names it without telling what it shows."""
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    return Image.from_source(recipe, f"generated {what} {digest} (seed {seed})")
