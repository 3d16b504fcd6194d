"""The table of checks."""

from collections.abc import Callable
from dataclasses import dataclass

from .instrument import Instrument, Verdict

Function = Callable[[Instrument], Verdict]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: The name on the command line.
        claim: What holds for a server that reads its prompts.
        few_shot: Whether few-shot prompts depend on it, so that it runs before an experiment.
        deep: Whether it takes so many requests that it runs only if asked for.
    """

    name: str
    claim: str
    run: Function
    few_shot: bool
    deep: bool


CHECKS: dict[str, Check] = {}
"""In the order in which they run."""


def check(*, few_shot: bool = False, deep: bool = False) -> Callable[[Function], Function]:
    """Adds a function, whose docstring is the claim, to the table."""

    def add(function: Function) -> Function:
        name = function.__name__
        CHECKS[name] = Check(name, (function.__doc__ or "").strip().rstrip("."), function, few_shot, deep)
        return function

    return add
