"""Images of the generated world that are drawn when they are opened. Fixed facts are known before; the rest comes from
a stream.

A `Drawing` is the complete recipe of one image. Equal drawings give the same bytes and share one decoded image. A bank
of drawings that many episodes use is rendered, encoded and embedded once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from icl.images import Image
from icl.streams import StreamKey
from icl.tasks.generated.world import (
    CONCEPTS,
    HELD_OUT_CONCEPTS,
    TRAINING_CONCEPTS,
    Concept,
    ImageFacts,
    Kind,
    ShapeGroup,
    draw,
)

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

    def __call__(self) -> "PILImage":
        return self.render()[0]

    def render(self) -> "tuple[PILImage, ImageFacts]":
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
def generated_image(recipe: Callable[[], "PILImage"], what: str, seed: int) -> Image:
    """One `Image` for each recipe, so its digest is computed once. The origin identifies the image without revealing
    its content.
    """
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    return Image.from_source(recipe, f"generated {what} {digest} (seed {seed})")
