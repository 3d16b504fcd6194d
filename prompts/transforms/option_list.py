"""The options listed behind the question, in a cyclic shift: is an answer that of its place? (CMMU's ShiftCheck, 2024)

    shift s    options o_s, o_s+1, ..., o_n-1, o_0, ..., o_s-1        "\\nOptions: red, green, blue."

A model that understands gives the same answer under every shift (an axis: one arm a shift); one that takes the first
option gives each. `icl analyze RUN option_shift` counts. Answers stay the options' texts. An example without options
stays as it is; where an example has fewer options than the shift, it goes round.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from icl.constraints import Count
from icl.errors import ConfigError
from icl.registry import component
from icl.types import Context, Where
from prompts.example_changes import changed


@component("transform", "option_list")
@dataclass(frozen=True)
class OptionList:
    """Options listed behind the question, turned by a number of places: the same question in every order of them."""

    needs: ClassVar[frozenset[str]] = frozenset()

    shift: Count = 0  # how many places the options are turned to the left
    where: Where = "all"  # whose options are listed
    text: str = "\nOptions: {options}."  # how they are written behind the question
    between: str = ", "  # between two options

    def __post_init__(self) -> None:
        if self.text.count("{options}") != 1:
            raise ConfigError(f"text must have {{options}} once, where they go; it is {self.text!r}.")

    def transform(self, context: Context) -> Context:
        return changed(context, self.where, self._told, f"option_list: shift {self.shift}")

    def _told(self, item: Any) -> Any:
        if not item.options:
            return item
        written = self.text.replace("{options}", self.between.join(turned(item.options, self.shift)))
        return replace(item, question=f"{item.question}{written}" if item.question else written.lstrip())


def turned(options: tuple[str, ...], shift: int) -> tuple[str, ...]:
    """The options in the order in which they are listed."""
    start = shift % len(options)
    return (*options[start:], *options[:start])
