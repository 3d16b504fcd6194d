"""Shuffled negative: the contrast branches of a method, made from the prompt of another sample.

    z_1 of another sample of the run, with its own demonstrations, question and corrupted image

A method that is not better than this control uses its contrast branch as a prior over answers, not as information about
its own sample. Seed and query id determine the other sample (`Prompt.paired_prompt`), independent of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from decoding.arms.inspection import branch_count, has_negative_weight
from decoding.base import Generate, Note, Strategy, Traits
from decoding.controls.base import NegativeReplacement
from icl.errors import PlanError
from icl.registry import NestedComponent, component
from icl.types import Prompt

if TYPE_CHECKING:
    from decoding.arms.arm import Arm, ControlTarget


@component("strategy", "shuffled_negative")
@dataclass(frozen=True)
class ShuffledNegative(NegativeReplacement):
    """Control: another strategy with the contrast branches of another sample.

    It needs a run of at least two samples (of two groups, if samples have groups), and raises PlanError otherwise.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 60

    @property
    def traits(self) -> Traits:
        return replace(super().traits, reads_paired_prompt=True)

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        is_suitable = has_negative_weight(target.strategy) and branch_count(target.strategy) > 1
        return target.with_strategy(ShuffledNegative(target.strategy)) if is_suitable else None

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """The notes of the method for the prompts of the other samples."""
        return self.of.prepare([_paired_prompt(prompt) for prompt in prompts], generate)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, *self.of.branches(_paired_prompt(prompt), note)[1:]


def _paired_prompt(prompt: Prompt) -> Prompt:
    if prompt.paired_prompt is None:
        raise PlanError(
            "shuffled_negative reads the prompt of another sample, but this prompt has none. Use a run of two or more "
            "queries (of two groups, if queries have groups); in Python, set Prompt.paired_prompt."
        )
    return prompt.paired_prompt
