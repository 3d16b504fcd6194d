"""The table of checks."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .instrument import Instrument, Verdict


class Prompts(StrEnum):
    """Prompts that a check matters for."""

    WITH_IMAGES = "prompts with images"
    WITH_SEVERAL_IN_ONE_TURN = "prompts with several images in one turn"
    WITH_IMAGES_IN_TURNS = "prompts with images in several turns"
    OTHER = "other requests"


Function = Callable[[Instrument], Verdict]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: The name on the command line.
        claim: What holds for a server that reads its prompts.
        matters_for: Prompts that a fault changes. Before a run, only checks that matter for its prompts are run.
        deep: Whether it takes so many requests that it runs only if asked for.
    """

    name: str
    claim: str
    run: Function
    matters_for: Prompts
    deep: bool


CHECKS: dict[str, Check] = {}
"""In the order in which they run."""


def check(matters_for: Prompts = Prompts.OTHER, *, deep: bool = False) -> Callable[[Function], Function]:
    """Adds a function, whose docstring is the claim, to the table."""

    def add(function: Function) -> Function:
        name = function.__name__
        CHECKS[name] = Check(name, (function.__doc__ or "").strip().rstrip("."), function, matters_for, deep)
        return function

    return add
