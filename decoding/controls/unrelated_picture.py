"""Unrelated picture: a method's negative branches replaced by the prompt with a picture that has nothing to do with it.

The picture is made up of soft random colours, from the query's stream, at the size of the query's own. A corrupted
picture that does no better than this one owes nothing to what is left of the original in it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import changes_picture
from decoding.base import Strategy
from decoding.controls.wrapped import OtherNegative
from icl.edits import MadeUp
from icl.registry import Nested, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import Held


@component("strategy", "unrelated_picture")
@dataclass(frozen=True)
class UnrelatedPicture(OtherNegative):
    """Control: another strategy with a made-up picture in the place of its own negative branches."""

    of: Annotated[Strategy, Nested("strategy")]  # the strategy whose arithmetic it is

    rank: ClassVar[int] = 80

    @classmethod
    def fits(cls, held: "Held") -> "Arm | None":
        return held.beside(UnrelatedPicture(held.strategy)) if changes_picture(held.strategy) else None

    def negative(self, prompt: Prompt) -> Prompt:
        return prompt.edit(MadeUp(), "query")
