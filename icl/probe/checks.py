"""The table of checks."""

from collections.abc import Callable
from dataclasses import dataclass

from .instrument import Instrument, Verdict

Function = Callable[[Instrument], Verdict]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        question: What holds for a server that reads its prompts.
        few_shot: Whether few-shot prompts depend on it, so that it runs before an experiment.
        deep: Whether it takes so many requests that it runs only if asked for.
    """

    name: str
    question: str
    run: Function
    few_shot: bool
    deep: bool


CHECKS: dict[str, Check] = {}
"""In the order in which they run."""


def check(*, few_shot: bool = False, deep: bool = False) -> Callable[[Function], Function]:
    """Adds a function, whose docstring is the question, to the table."""

    def add(function: Function) -> Function:
        name = function.__name__
        CHECKS[name] = Check(name, (function.__doc__ or "").strip().rstrip("."), function, few_shot, deep)
        return function

    return add
