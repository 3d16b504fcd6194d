"""Unrelated image: the contrast branches of a method replaced by the prompt with an unrelated image.

The image consists of soft random colors, from the random stream of the query, in the size of the query's image. If a
corrupted image is not better than this one, the contrast does not use what is left of the original image.
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
    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "unrelated_image")
@dataclass(frozen=True)
class UnrelatedImage(NegativeReplacement):
    """Control: another strategy with the prompt with an unrelated image as its contrast branches."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 80

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(UnrelatedImage(target.strategy)) if edits_query_image(target.strategy) else None

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return prompt.edit(RandomColors(), "query")
