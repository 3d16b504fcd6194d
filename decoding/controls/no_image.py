"""No image: the contrast branches of a method replaced by the prompt without the query's image.

If a noised image is not better than none, the contrast uses nothing but the text.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import edits_query_image
from decoding.base import Strategy
from decoding.controls.base import NegativeReplacement
from decoding.prompt_edits import remove_query_image
from icl.registry import NestedComponent, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "no_image")
@dataclass(frozen=True)
class NoImage(NegativeReplacement):
    """Control: another strategy with the prompt without the image as its contrast branches."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 90

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        return target.with_strategy(NoImage(target.strategy)) if edits_query_image(target.strategy) else None

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return remove_query_image(prompt)
