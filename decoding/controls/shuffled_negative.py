"""Shuffled negative: a method's negative branches, made from another sample's prompt.

    z_1 of another sample of the run, with its own demonstrations, question and corrupted image

Is it this sample's corrupted input that a contrast needs, or would anybody's do? A method that does not beat this
control uses its negative as a prior over answers. Which sample it is, is a function of seed and query id
(`Prompt.paired_prompt`), never of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import branch_count, has_negative_weight
from decoding.base import Generate, Note, Strategy
from decoding.controls.base import NegativeReplacement
from decoding.traits import Traits
from icl.errors import PlanError
from icl.registry import NestedComponent, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget


@component("strategy", "shuffled_negative")
@dataclass(frozen=True)
class ShuffledNegative(NegativeReplacement):
    """Control: another strategy with another sample's branches in the place of its own negative ones.

    Needs a run of at least two samples (of two groups, where samples have groups). Raises PlanError without another.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose arithmetic it is

    control_rank: ClassVar[int] = 60

    @property
    def traits(self) -> Traits:
        return replace(super().traits, reads_paired_prompt=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        fitting = has_negative_weight(target.strategy) and branch_count(target.strategy) > 1
        return target.with_strategy(ShuffledNegative(target.strategy)) if fitting else None

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """What the method learns about the other samples' prompts."""
        return self.of.prepare([_other(prompt) for prompt in prompts], generate)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *self.of.branches(_other(prompt), note)[1:]


def _other(prompt: Prompt) -> Prompt:
    if prompt.paired_prompt is None:
        raise PlanError(
            "shuffled_negative reads another sample's prompt, and there is none beside this one. A run of two "
            "queries or more (of two groups, where they have groups) gives it; in Python, set Prompt.paired_prompt."
        )
    return prompt.paired_prompt
