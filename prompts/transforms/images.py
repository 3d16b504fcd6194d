"""Transforms of images in a prompt."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from icl import PIL, ConfigError, Context, Image, NestedComponent, PlanError, Pool, PositiveInt, component, describe
from icl.edits import DIFFUSION_STEPS, Blank, DiffusionNoise, Edit
from icl.edits.mark import RegionMarks
from icl.tasks import image_digests
from icl.types import Where
from prompts import change_examples, derange, random_places, replace_demos, sort_by_rank


@component("transform", "images")
@dataclass(frozen=True)
class Images:
    """A transform of images: removed, blank or noise; for demonstrations also permuted or swapped.

    Images removed, blanked, noised, permuted or swapped: do they matter? (Baldassini et al. 2024; Xu et al. 2025)

        removed     the example has no image
        blank       all pixels have one shade (0 black, 255 white; the papers use both)
        noise       forward diffusion on the processed pixels; step 999 is nearly pure Gaussian noise (std .96)
        permuted    demonstrations exchange their images; all images move if that is possible
        swapped     each gets another image of the pool (the papers' "random"): no demonstration's, and not the query's

    Text stays. A permutation is drawn from those that move the most images to a place with another image. The mark
    records the share that moved. Noise and swaps depend on the example and the query, not on the position in the
    prompt.

    No released code was compared.
    """

    how: Literal["removed", "blank", "noise", "permuted", "swapped"] = "removed"  # kind of change
    where: Where = "demos"  # owners of the images; permuted, swapped: demonstrations only
    shade: Annotated[int, Ge(0), Le(255)] = 128  # gray level of a blank; 0 breaks processors that read zeros as padding
    step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 999  # noise step, of 1000 diffusion steps

    def __post_init__(self) -> None:
        if self.how in ("permuted", "swapped") and self.where != "demos":
            raise ConfigError(f"images are {self.how} among demonstrations; where is '{self.where}'. Remove 'where'.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"pool"} if self.how == "swapped" else ())

    @property
    def spare_examples(self) -> int:
        """Examples of the pool in addition to the demonstrations."""
        return int(self.how == "swapped")

    def fitted(self, pool: Pool, model: object) -> "Swapped":
        """The transform with the pool that images are drawn from."""
        return Swapped(pool)

    def transform(self, context: Context) -> Context:
        if self.how == "permuted":
            return _permute(context)
        if self.how == "swapped":
            raise PlanError(
                "images are swapped with images of the pool. In Python, call fitted(pool, None). A "
                "run does this automatically."
            )
        return change_examples(context, self.where, lambda item: self._changed(item, context), f"images: {self.how}")

    def _changed(self, item: Any, context: Context) -> Any:
        if self.how == "removed":
            return replace(item, images=())
        edited = (self._edited(image, f"{item.id}/{j}", context) for j, image in enumerate(item.images))
        return replace(item, images=tuple(edited))

    def _edited(self, image: Image, place: str, context: Context) -> Image:
        if self.how == "blank":
            return image.edit(Blank(self.shade, self.shade, self.shade))
        return image.edit(DiffusionNoise(self.step).bind(context.key, place))


@dataclass(frozen=True)
class Swapped:
    """The transform `images` with `how: swapped` and its pool."""

    pool: Pool

    needs: ClassVar[frozenset[str]] = frozenset({"pool"})
    where: ClassVar[Where] = "demos"

    def transform(self, context: Context) -> Context:
        """Raises PlanError where the pool has no other image."""
        taken = image_digests(context.query, *(demo.example for demo in context.demos))
        return change_examples(context, "demos", lambda item: self._changed(item, taken, context), "images: swapped")

    def _changed(self, item: Any, taken: frozenset[str], context: Context) -> Any:
        others = tuple(self._other(f"{item.id}/{j}", taken, context) for j in range(len(item.images)))
        return replace(item, images=others) if others else item

    def _other(self, place: str, taken: frozenset[str], context: Context) -> Image:
        for example in self.pool.in_random_order(context.key, f"transform/pictures/{place}"):
            for image in example.images:
                if image.source_digest not in taken:
                    return image
        raise PlanError(
            f"images: query '{context.query.id}': the pool of {len(self.pool)} has no image that its prompt does "
            "not show already. Use how: permuted."
        )


def _permute(context: Context) -> Context:
    demos = sort_by_rank(context)
    images = [demo.example.images for demo in demos]
    moved, share = derange(images, random_places(context, "transform/pictures"), _identity)
    new = [replace(d, example=replace(d.example, images=p)) for d, p in zip(demos, moved, strict=True)]
    return replace_demos(context, new, f"images: permuted, {share:.0%} moved")


def _identity(images: tuple[Image, ...]) -> tuple[Any, ...]:
    return tuple((image.identity, image.edits) for image in images)


@component("transform", "image_edit")
@dataclass(frozen=True)
class ImageEdit:
    """A transform that shows images after an edit.

    Images after an edit: marks to point at, crops, blur or any other edit, in what the model reads.

        transforms: [{name: image_edit, where: query, edit: {name: mark, boxes: [[0.1, 0.1, 0.4, 0.5]], style: number}}]

    With `mark` this is Set-of-Mark prompting (Yang et al., 2310.11441): a question can name a region by its number. The
    control is the same mark at a wrong box, as one more value of the axis. Text stays. Random edits depend on the
    example and the query, not on the position in the prompt.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    edit: Annotated[Edit, NestedComponent("edit")] = field(default_factory=RegionMarks)  # what changes the images
    where: Where = "query"  # owners of the images

    def transform(self, context: Context) -> Context:
        def changed(item: Any) -> Any:
            images = (image.edit(self.edit.bind(context.key, f"{item.id}/{j}")) for j, image in enumerate(item.images))
            return replace(item, images=tuple(images)) if item.images else item

        return change_examples(context, self.where, changed, f"images: {describe(self.edit)['name']}")


@component("transform", "frame_grid")
@dataclass(frozen=True)
class FrameGrid:
    """A transform that turns several images of an example into one image with a grid of frames.

    Several frames in one image, so that a model of single images sees a video (IG-VLM, Kim et al. 2024).

    For an example with several images, the middles of `frames` equal parts are taken; frames repeat if there are fewer
    images. They are placed row by row on a white grid, each resized to the smallest width and height among them.
    Examples with one image stay. `shuffled` is the control: the same frames in a random order. The paper's prompt is an
    instruction:

        composer: {name: chat, instruction_text: The provided image arranges keyframes from a video in a grid view.}

    Differs from the released code in videos, which must be given as images, and in the frames, which are the middles of
    equal parts.
    """

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


def _draw_grid(images: tuple[Image, ...], columns: int, gap: int) -> "PIL.Image.Image":
    frames = [image.open() for image in images]
    width, height = min(frame.width for frame in frames), min(frame.height for frame in frames)
    rows = -(-len(frames) // columns)
    across = min(columns, len(frames))
    sheet = PIL.Image.new("RGB", (across * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, frame in enumerate(frames):
        place = (gap + i % columns * (width + gap), gap + i // columns * (height + gap))
        sheet.paste(frame.resize((width, height)), place)
    return sheet
