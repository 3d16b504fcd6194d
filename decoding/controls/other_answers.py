"""Other answers: a method's negative branches replaced by the prompt whose demonstrations answer wrongly.

For methods that contrast with and without demonstrations (`ced`, `cad`, `adacad`, `coiecd`): with wrong answers in the
negative branch only what the right ones say is left to contrast, and not that there are demonstrations. `shuffled`
exchanges the answers, `wrong` gives each one of the others. Both need two different answers among the demonstrations;
a prompt without fails with a sentence, so this is no default.
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
    """Control: another strategy with wrongly answered demonstrations in the place of its own negative branches."""

    of: Annotated[Strategy, NestedComponent("strategy")]  # the strategy whose arithmetic it is
    how: Literal["wrong", "shuffled"] = "wrong"  # one of the other answers each, or all exchanged

    def negative_prompt(self, prompt: Prompt) -> Prompt:
        return replace_answers(prompt, self.how)
