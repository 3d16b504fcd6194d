"""Other answers: the contrast branches of a method replaced by the prompt with wrong answers in its demonstrations.

For methods that contrast with the prompt without demonstrations (`ced`, `cad`, `adacad`, `coiecd`). With wrong answers
in the contrast branch, both branches have demonstrations, and only the answers differ. `shuffled` exchanges the
answers, `wrong` gives each demonstration one of the others. Both need two different answers in the prompt and fail
otherwise, so this control is not a default.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from decoding.base import Strategy
from decoding.controls.base import NegativeReplacement
from decoding.prompt_edits import replace_answers
from icl.registry import NestedComponent, component
from icl.types import Prompt


@component("strategy", "other_answers")
@dataclass(frozen=True)
class OtherAnswers(NegativeReplacement):
    """Control: another strategy with the prompt with wrong demonstration answers as its contrast branches."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # strategy whose combination is used
    how: Literal["wrong", "shuffled"] = "wrong"  # one of the other answers each, or answers exchanged

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return replace_answers(prompt, self.how)
