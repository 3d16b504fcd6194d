"""The protocol of observers: what a run reports while it is computed, to an experiment tracker or to your own code.

Only the process that was started with `icl run` calls observers, also where workers compute the samples. An observer is
not part of a cell, so it changes no sample and no digest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

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
            run: The run directory. Its name is that of the run.
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
