"""CPU time of functions over rounds, and how a row of the benchmark table prints it.

CPU time is user plus system time of the process, so that other work on the machine counts little. Functions that are
compared run in turn, because a machine also gets slower and faster.
"""

import resource
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from lab.bench import rounds

ROUNDS = 5


def cpu_rounds(
    functions: Sequence[Callable[[], Any]], times: int = ROUNDS, prepare: Callable[[], Any] | None = None
) -> list[list[float]]:
    """CPU seconds of each function in each round, after one round that is not counted.

    Args:
        functions: What is measured, in turn.
        times: The number of rounds; one in a quick benchmark.
        prepare: Called before each function, outside the time.

    Returns:
        One list per function, with a number per round.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(rounds(times) + 1):
        for own, function in zip(seconds, functions, strict=True):
            if prepare is not None:
                prepare()
            start = time.process_time()
            function()
            if number:
                own.append(time.process_time() - start)
    return seconds


def children_cpu_seconds(function: Callable[[], Any]) -> float:
    """CPU seconds of the processes that a function starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    function()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def round_ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """The ratio of two times in each round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def with_spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """The median over the rounds with minimum and maximum, such as '0.97 (0.95 to 1.02)'."""
    middle, low, high = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle}{unit} ({low} to {high})" if len(values) > 1 else f"{middle}{unit}"
