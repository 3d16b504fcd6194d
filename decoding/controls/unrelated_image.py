"""Unrelated image: a method's negative branches replaced by the prompt with an image that has nothing to do with it.

The image is made up of soft random colors, from the query's stream, at the size of the query's own. A corrupted
image that does no better than this one owes nothing to what is left of the original in it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import edits_query_image
from decoding.base import Strategy
from decoding.controls.base import NegativeReplacement
from icl.edits import RandomColors
from icl.registry import NestedComponent, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "unrelated_image")
@dataclass(frozen=True)
class UnrelatedImage(NegativeReplacement):
    """Control: another strategy with a made-up image in the place of its own negative branches."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose arithmetic it is

    control_rank: ClassVar[int] = 80

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(UnrelatedImage(target.strategy)) if edits_query_image(target.strategy) else None

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return prompt.edit(RandomColors(), "query")
