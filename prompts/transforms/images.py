"""Images removed, blanked, noised, permuted or swapped: do they matter? (Baldassini et al. 2024; Xu et al. 2025)

    removed     the example has no image
    blank       all pixels have one shade (0 black, 255 white; the papers use both)
    noise       forward diffusion on the processed pixels; step 999 is nearly pure Gaussian noise (std .96)
    permuted    demonstrations exchange their images; all images move if that is possible
    swapped     each gets another image of the pool (the papers' "random"): no demonstration's, and not the query's

Text stays. A permutation is drawn from those that move the most images to a place with another image. The mark records
the share that moved. Noise and swaps depend on the example and the query, not on the position in the prompt.

No released code was compared.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from icl import ConfigError, Context, Image, PlanError, Pool, component
from icl.edits import DIFFUSION_STEPS, Blank, DiffusionNoise
from icl.types import Where
from prompts import change_examples, derange, random_places, replace_demos, sort_by_rank


@component("transform", "images")
@dataclass(frozen=True)
class Images:
    """A transform of images: removed, blank or noise; for demonstrations also permuted or swapped."""

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
        images = [*context.query.images, *(p for demo in context.demos for p in demo.example.images)]
        taken = {image.source_digest for image in images}
        return change_examples(context, "demos", lambda item: self._changed(item, taken, context), "images: swapped")

    def _changed(self, item: Any, taken: set[str], context: Context) -> Any:
        others = tuple(self._other(f"{item.id}/{j}", taken, context) for j in range(len(item.images)))
        return replace(item, images=others) if others else item

    def _other(self, place: str, taken: set[str], context: Context) -> Image:
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
