"""Images with one shape in each of some cells of a 3 x 3 grid, so that every shape has a box."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl.images import Image
from icl.streams import StreamKey
from icl.tasks.generated.drawing import generated_image
from icl.tasks.generated.ink import SIDE, ZOOM, paint_shape
from icl.tasks.generated.world import COLORS, Concept

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

CELLS = 9


@dataclass(frozen=True)
class PlacedShapes:
    """A recipe for an image: concepts and their cells, and the stream (seed, name) for sizes and small shifts."""

    seed: int
    name: str
    concepts: tuple[Concept, ...]
    cells: tuple[int, ...]

    def __call__(self) -> "PILImage":
        from PIL import Image as PILImage

        rng = StreamKey(self.seed, self.name).numpy("image")
        ground = (int(rng.integers(228, 256)), int(rng.integers(228, 256)), int(rng.integers(228, 256)))
        canvas = PILImage.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
        for (color, shape), cell in zip(self.concepts, self.cells, strict=True):
            x, y = ((i + 0.5) * SIDE / 3 + float(rng.uniform(-1, 1)) for i in (cell % 3, cell // 3))
            radius = float(rng.uniform(5.5, 7))
            paint_shape(canvas, rng, shape, COLORS[color], "solid", x, y, radius, ground)
        return canvas.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR)

    @property
    def image(self) -> Image:
        return generated_image(self, "shapes", self.seed)


def cell_box(cell: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell as shares of the sides."""
    column, row = cell % 3, cell // 3
    return column / 3, row / 3, (column + 1) / 3, (row + 1) / 3
