"""Controls that replace the contrast branches of a method, and keep its combination."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from decoding import Generate, NegativeReplacement, Note, Strategy, Traits, remove_query_image, replace_answers
from decoding.arms.arm import Arm, ControlTarget
from decoding.arms.inspection import branch_count, constant_weights, edits_query_image, has_negative_weight
from icl import NestedComponent, PlanError, Prompt, component
from icl.edits import RandomColors


@component("strategy", "no_image")
@dataclass(frozen=True)
class NoImage(NegativeReplacement):
    """Control: another strategy with the prompt without the image as its contrast branches.

    No image: the contrast branches of a method replaced by the prompt without the query's image.

    If a noised image is not better than none, the contrast uses nothing but the text.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 90

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(NoImage(target.strategy)) if edits_query_image(target.strategy) else None

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return remove_query_image(prompt)


@component("strategy", "unrelated_image")
@dataclass(frozen=True)
class UnrelatedImage(NegativeReplacement):
    """Control: another strategy with the prompt with an unrelated image as its contrast branches.

    Unrelated image: the contrast branches of a method replaced by the prompt with an unrelated image.

    The image consists of soft random colors, from the random stream of the query, in the size of the query's image. If
    a corrupted image is not better than this one, the contrast does not use what is left of the original image.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 80

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        return target.with_strategy(UnrelatedImage(target.strategy)) if edits_query_image(target.strategy) else None

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return prompt.edit(RandomColors(), "query")


@component("strategy", "other_answers")
@dataclass(frozen=True)
class OtherAnswers(NegativeReplacement):
    """Control: another strategy with the prompt with wrong demonstration answers as its contrast branches.

    Other answers: the contrast branches of a method replaced by the prompt with wrong answers in its demonstrations.

    For methods that contrast with the prompt without demonstrations (`ced`, `cad`, `adacad`, `coiecd`). With wrong
    answers in the contrast branch, both branches have demonstrations, and only the answers differ. `shuffled` exchanges
    the answers, `wrong` gives each demonstration one of the others. Both need two different answers in the prompt and
    fail otherwise, so this control is not a default.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used
    how: Literal["wrong", "shuffled"] = "wrong"  # one of the other answers each, or answers exchanged

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return replace_answers(prompt, self.how)


@component("strategy", "shuffled_negative")
@dataclass(frozen=True)
class ShuffledNegative(NegativeReplacement):
    """Control: another strategy with the contrast branches of another sample.

    Shuffled negative: the contrast branches of a method, made from the prompt of another sample.

        z_1 of another sample of the run, with its own demonstrations, question and corrupted image

    A method that is not better than this control uses its contrast branch as a prior over answers, not as information
    about its own sample. Seed and query id determine the other sample (`Prompt.paired_prompt`), independent of the
    batch.

    It needs a run of at least two samples (of two groups, if samples have groups), and raises PlanError otherwise.
    """

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used

    control_rank: ClassVar[int] = 60

    @property
    def traits(self) -> Traits:
        return replace(super().traits, reads_paired_prompt=True)

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        # not of a branch that raises tokens, which is about its own sample, nor of one about another sample already
        lifts = max((constant_weights(target.strategy) or ())[1:], default=0.0) > 0
        is_suitable = has_negative_weight(target.strategy) and branch_count(target.strategy) > 1 and not lifts
        is_suitable &= not target.strategy.traits.reads_paired_prompt
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
