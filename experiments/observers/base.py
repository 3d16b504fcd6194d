"""The protocol of observers: what a run reports while it is computed, to an experiment tracker or to your own code.

Only the process that was started with `icl run` calls observers, also where workers compute the samples. An observer is
not part of a cell, so it changes no sample and no digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from icl import REQUIRED_MEMBERS, ICLError
from icl.testing.require import accepts_class, require

ObservedState = Literal["finished", "stopped", "interrupted"]


class Observer(Protocol):
    """A component of kind `observer`: receives a run's settings, its scores cell by cell, its tables and its report.

    It has a state between `started` and `finished`, so its dataclass is not frozen. A subclass defines only the methods
    that it needs. An exception ends the observer with a note, and the run goes on.
    """

    def check(self) -> None:
        """Raises ConfigError if the observer cannot work here. Called before any data is read."""

    def started(self, run: Path, settings: Mapping[str, Any]) -> None:
        """Called once, when there is something to report.

        Args:
            run: The run directory. Its name is the name of the run.
            settings: The keys of the experiment file.
        """

    def cell(self, labels: Mapping[str, Any], scores: Mapping[str, float], samples: int) -> None:
        """Called when all samples of a cell are finished, and for each cell that was finished before.

        Args:
            labels: The axes that vary in the grid, such as decoding, with the cell's values; the seed if there are
                several.
            scores: metric -> its mean over the samples, or a run-level metric's statistic.
            samples: The number of samples that did not fail.
        """

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Called at the end for each table of the report, such as 'scores'. A missing value is None."""

    def artifact(self, path: Path) -> None:
        """Called at the end for each file to keep, such as report.html."""

    def finished(self, state: ObservedState) -> None:
        """Called last. state: whether all samples are finished, the run stopped early, or Ctrl-C ended it."""


SETTINGS = {"task": {"name": "binding", "queries": 5}, "grid": {"decoding": ["greedy", {"name": "vcd", "alpha": 0.5}]}}
COLUMNS: Sequence[str] = ("decoding", "mean", "low")
ROWS: Sequence[Sequence[Any]] = (("greedy", 0.5, 0.1), ("vcd", 0.25, None))


@dataclass(frozen=True)
class ObserverFacts:
    """What `check_observer` did."""

    not_started: str = ""

    def describe(self) -> str:
        """The facts in one line."""
        if self.not_started:
            return f"nothing was reported to it: {self.not_started}"
        return "it took the settings, two cells, a table and a file of a run named icl-check, twice."


@accepts_class
def check_observer(observer: Observer) -> ObserverFacts:
    """Reports a small run to an observer, twice: one object may observe several runs. An exception passes.

    Raises:
        AssertionError: The observer lacks a method, or a method returns a value. The message is a sentence.
    """
    name = type(observer).__name__
    missing = [method for method in REQUIRED_MEMBERS["observer"] if not callable(getattr(observer, method, None))]
    require(not missing, f"{name} lacks {', '.join(missing)} of the protocol experiments.observers.base.Observer.")
    try:
        observer.check()
    except ICLError as error:
        return ObserverFacts(str(error))
    with TemporaryDirectory(prefix="icl-check-", ignore_cleanup_errors=True) as folder:
        run = Path(folder) / "icl-check"
        run.mkdir()
        report = run / "report.html"
        report.write_text("<p>report</p>", encoding="utf-8")
        for _ in range(2):
            _report(observer, "started", run, SETTINGS)
            for decoding, score in (("greedy", 0.5), ("vcd", 0.25)):
                _report(observer, "cell", {"decoding": decoding}, {"lenient": score}, 4)
            _report(observer, "table", "scores", COLUMNS, ROWS)
            _report(observer, "artifact", report)
            _report(observer, "finished", "finished")
    return ObserverFacts()


def _report(observer: Observer, method: str, *arguments: Any) -> None:
    value = getattr(observer, method)(*arguments)
    require(value is None, f"{type(observer).__name__}.{method} returned {value!r}. An observer returns nothing.")
