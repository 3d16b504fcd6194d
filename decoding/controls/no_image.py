"""No image: a method's negative branches replaced by the prompt without the query's image.

Which corruption matters? A noised image that does no better than none says nothing that the text did not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding import prompt_edits as changes
from decoding.arms.inspection import changes_image
from decoding.base import Strategy
from decoding.controls.wrapped import OtherNegative
from icl.registry import Nested, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "no_image")
@dataclass(frozen=True)
class NoImage(OtherNegative):
    """Control: another strategy with no image in the place of its own negative branches."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose arithmetic it is

    rank: ClassVar[int] = 90

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(NoImage(held.strategy)) if changes_image(held.strategy) else None

    def negative(self, prompt: Prompt) -> Prompt:
        return changes.no_image(prompt)
