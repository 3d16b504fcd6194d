"""Pictures removed, blanked, noised or permuted: do they matter? (Baldassini et al. 2024; Xu et al., NAACL 2025)

    removed     the example has no picture
    blank       every pixel one shade (0 black, 255 white; the papers use both)
    noise       forward diffusion on the processed pixels; step 999 is nearly pure Gaussian noise (std .96)
    permuted    demonstrations exchange their pictures, all of which go elsewhere where that is possible

Text stays. A permutation is drawn among those that move the most pictures to a place that showed another; the mark
says the share that moved. Noise belongs to the example and the query, not to the place in the prompt. Pictures drawn
from the pool instead (the papers' "random") need the pool, which a transform does not see.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from icl.edits import DIFFUSION_STEPS, Blank, DiffusionNoise
from icl.errors import ConfigError
from icl.pictures import Picture
from icl.registry import component
from icl.types import Context, Where
from prompts.changing import changed, deranged, ranked, with_demos


@component("transform", "pictures")
@dataclass(frozen=True)
class Pictures:
    """Pictures of demonstrations, query or both: removed, blank, noise, or permuted among demonstrations."""

    needs: ClassVar[frozenset[str]] = frozenset()

    how: Literal["removed", "blank", "noise", "permuted"] = "removed"  # what becomes of them
    where: Where = "demos"  # whose pictures; permuted: demonstrations' only
    shade: Annotated[int, Ge(0), Le(255)] = 128  # of a blank; 0 breaks processors that read zeros as padding
    step: Annotated[int, Ge(0), Le(DIFFUSION_STEPS - 1)] = 999  # of the noise, of 1000 diffusion steps

    def __post_init__(self) -> None:
        if self.how == "permuted" and self.where != "demos":
            raise ConfigError(f"pictures are permuted among demonstrations; where is '{self.where}'. Leave it out.")

    def transform(self, context: Context) -> Context:
        if self.how == "permuted":
            return _permuted(context)
        return changed(context, self.where, lambda item: self._changed(item, context), f"pictures: {self.how}")

    def _changed(self, item: Any, context: Context) -> Any:
        if self.how == "removed":
            return replace(item, pictures=())
        shown = (self._edited(picture, f"{item.id}/{j}", context) for j, picture in enumerate(item.pictures))
        return replace(item, pictures=tuple(shown))

    def _edited(self, picture: Picture, place: str, context: Context) -> Picture:
        if self.how == "blank":
            return picture.edit(Blank(self.shade, self.shade, self.shade))
        return picture.edit(DiffusionNoise(self.step).bind(context.key, place))


def _permuted(context: Context) -> Context:
    demos = ranked(context)
    shown = [demo.example.pictures for demo in demos]
    moved, share = deranged(shown, context.key.numpy("transform/pictures"), _identity)
    new = [replace(d, example=replace(d.example, pictures=p)) for d, p in zip(demos, moved, strict=True)]
    return with_demos(context, new, f"pictures: permuted, {share:.0%} moved")


def _identity(pictures: tuple[Picture, ...]) -> tuple[Any, ...]:
    return tuple((picture.identity, picture.edits) for picture in pictures)
