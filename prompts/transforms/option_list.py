"""Options listed after the question in a cyclic shift: does the answer depend on the position? (CMMU's ShiftCheck,
2024)

    shift s    options o_s, o_s+1, ..., o_n-1, o_0, ..., o_s-1        "\\nOptions: red, green, blue."

A model that understands gives the same answer under every shift. Shifts are an axis with one arm each. A model that
prefers the first option gives a different answer for each shift. `icl analyze RUN option_shift` counts this. Answers
remain the texts of the options, or are letters in the order of the list (`letters: true`). An example without options
stays unchanged. The shift is taken modulo the number of options. The transform takes the place of the list that a task
asks for (`list_options` of `hub`).

No released code was compared.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from icl import ConfigError, Context, Count, OptionListing, component, later_parameter
from icl.option_listing import LETTERED, with_listed_options
from icl.types import Where
from prompts import change_examples


@component("transform", "option_list")
@dataclass(frozen=True)
class OptionList:
    """A transform that lists the options after the question, rotated by a number of places."""

    needs: ClassVar[frozenset[str]] = frozenset()

    shift: Count = 0  # places by which the options are rotated to the left
    where: Where = "all"  # owners of the options to list
    text: str = "\nOptions: {options}."  # format of the options after the question
    between: str = ", "  # text between two options
    letters: bool = later_parameter(False)  # list them by letters, which become the options and the answers

    def __post_init__(self) -> None:
        if self.text.count("{options}") != 1:
            raise ConfigError(f"text must have {{options}} once, where they go; it is {self.text!r}.")

    def transform(self, context: Context) -> Context:
        return change_examples(context, self.where, self._with_options, f"option_list: shift {self.shift}")

    def _with_options(self, item: Any) -> Any:
        own = OptionListing(self.text, self.between, self.letters)
        listing = LETTERED if own == OptionListing(letters=True) else own
        return with_listed_options(item, listing, self.shift)
