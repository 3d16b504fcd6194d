"""Several frames in one image, so that a model of single images sees a video (IG-VLM, Kim et al. 2024).

For an example with several images, the middles of `frames` equal parts are taken; frames repeat if there are fewer
images. They are placed row by row on a white grid, each resized to the smallest width and height among them. Examples
with one image stay. `shuffled` is the control: the same frames in a random order. The paper's prompt is an instruction:

    composer: {name: chat, instruction_text: The provided image arranges keyframes from a video in a grid view.}

Differs from the released code in videos, which must be given as images, and in the frames, which are the middles of
equal parts.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from icl import Context, Image, PositiveInt, component
from icl.types import Where
from prompts import change_examples

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@component("transform", "frame_grid")
@dataclass(frozen=True)
class FrameGrid:
    """A transform that turns several images of an example into one image with a grid of frames."""

    needs: ClassVar[frozenset[str]] = frozenset()

    frames: PositiveInt = 6  # number of frames
    columns: PositiveInt = 3  # frames in each row
    gap: PositiveInt = 4  # white pixels around each frame
    shuffled: bool = False  # whether frames are in random order
    where: Where = "all"  # owners of the images

    def transform(self, context: Context) -> Context:
        mark = f"frame_grid: {self.frames} frames{', shuffled' if self.shuffled else ''}"
        return change_examples(context, self.where, lambda item: self._with_grid(item, context), mark)

    def _with_grid(self, item: Any, context: Context) -> Any:
        if len(item.images) < 2:
            return item
        chosen = [item.images[i] for i in middles(len(item.images), self.frames)]
        if self.shuffled:
            places = context.key.numpy(f"transform/grid/{item.id}").permutation(len(chosen))
            chosen = [chosen[int(i)] for i in places]
        origins = "|".join(f"{p.identity}{''.join(edit.describe() for edit in p.edits)}" for p in chosen)
        load = partial(_draw_grid, tuple(chosen), self.columns, self.gap)
        return replace(item, images=(Image.from_source(load, f"grid {self.columns} {self.gap}: {origins}"),))


def middles(count: int, parts: int) -> list[int]:
    """Indices of the middles of `parts` equal parts of `count` images: 12 in 6 parts gives 1, 3, 5, 7, 9, 11."""
    return [(2 * i + 1) * count // (2 * parts) for i in range(parts)]


def _draw_grid(images: tuple[Image, ...], columns: int, gap: int) -> "PILImage":
    from PIL import Image as PILImage

    frames = [image.open() for image in images]
    width, height = min(frame.width for frame in frames), min(frame.height for frame in frames)
    rows = -(-len(frames) // columns)
    across = min(columns, len(frames))
    sheet = PILImage.new("RGB", (across * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, frame in enumerate(frames):
        place = (gap + i % columns * (width + gap), gap + i // columns * (height + gap))
        sheet.paste(frame.resize((width, height)), place)
    return sheet
