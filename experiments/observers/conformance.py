"""The check of observers: it reports a small run of two cells, twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.observers.base import Observer
from icl.errors import ICLError
from icl.registry import REQUIRED_MEMBERS
from icl.testing.require import accepts_class, require

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
