"""Call the observers of a run, each until it fails: a tracker that is down does not end the run.

`observers.json` in the run directory has, for each observer, the digest of the cells and metrics that it received in
full. Running the command of a finished run again calls only the observers that lack something.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.grid.grid import Cell, Grid
from experiments.observers.base import ObservedState, Observer
from experiments.store import Store, describe_metrics, read_mapping, scored_sample, write_json
from icl import DataFrame, StoreError, canonical_digest, class_name, describe
from icl.metrics.run_level import run_statistic

logger = logging.getLogger(f"icl.{__name__}")

FILE = "observers.json"


class Observation:
    """The calls of a run's observers, as a context: its end is the end of the run.

    Args:
        note: Receives a sentence for each observer that fails. None: no observer is called.
    """

    def __init__(self, note: Callable[[str], None] | None) -> None:
        self.note = note or logger.info
        self.is_enabled = note is not None
        self.active: list[Observer] = []
        self.cells: dict[str, Cell] = {}
        """Digest -> cell that was not reported yet."""
        self.is_complete = True
        """Whether the run has all its samples. The caller clears it if some are missing."""

    def __enter__(self) -> "Observation":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._finish("finished" if self.is_complete else "stopped")
        else:
            self._finish("interrupted" if issubclass(kind, KeyboardInterrupt) else "stopped")

    def start(self, store: Store, grid: Grid, finished: Iterable[str], all_observers: bool = True) -> None:
        """Starts the observers and reports the cells that are finished already.

        Args:
            store: The run directory.
            grid: The cells and their observers.
            finished: The digests of finished cells.
            all_observers: False: only the observers that have not received these cells in an earlier call.
        """
        if not grid.observers or not self.is_enabled:
            return
        self.store, self.grid = store, grid
        self.received = read_mapping(store.folder / FILE) or {}
        self.content = canonical_digest([sorted(cell.digest for cell in grid.cells), describe_metrics(grid)])
        self.active = [
            one for one in grid.observers if all_observers or self.received.get(_identity(one)) != self.content
        ]
        self.cells = {cell.digest: cell for cell in grid.cells}
        self.varying = _varying_labels(grid.cells)
        self._call("started", store.folder, grid.config.document.data)
        for digest in finished:
            self.cell_finished(digest)

    def cell_finished(self, digest: str) -> None:
        """Reports a cell, once."""
        cell = self.cells.pop(digest, None)
        if not self.active or cell is None:
            return
        samples = [sample for sample in self.store.samples(digest) if not sample.get("failed")]
        labels = {name: cell.seed if name == "seed" else cell.labels[name] for name in self.varying}
        self._call("cell", labels, _scores(samples, self.grid.metrics), len(samples))

    def frame(self, name: str, frame: DataFrame) -> None:
        """Reports a data frame as a table, unless it is empty."""
        if self.active and len(frame):
            rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
            self._call("table", name, list(map(str, frame.columns)), rows)

    def artifact(self, path: Path) -> None:
        """Reports a file."""
        self._call("artifact", path)

    def _finish(self, state: ObservedState) -> None:
        if state == "finished":
            for digest in list(self.cells):  # arms that ended early, because their comparisons are decided
                if self.active and any(self.store.samples(digest)):
                    self.cell_finished(digest)
        self._call("finished", state)
        if self.active and state == "finished":
            received = {**self.received, **{_identity(one): self.content for one in self.active}}
            try:
                write_json(self.store.folder / FILE, received)
            except StoreError as error:
                self.note(str(error))
        self.active = []

    def _call(self, method: str, *arguments: Any) -> None:
        for observer in list(self.active):
            try:
                getattr(observer, method)(*arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises, the run must go on
                self.active.remove(observer)
                problem = " ".join(f"{type(error).__name__}: {error}".rstrip(".: ").split())
                self.note(
                    f"observer '{class_name(type(observer))}' failed in {method}: {problem[:400]}. The run goes on "
                    "without it; the same command reports the finished run to it again."
                )


def _identity(observer: Observer) -> str:
    return f"{class_name(type(observer))} {canonical_digest(describe(observer))[:16]}"


def _varying_labels(cells: Sequence[Cell]) -> list[str]:
    """The axes with several values in the grid, and 'seed' if there are several."""
    axes = [axis for axis in cells[0].labels if len({cell.labels[axis] for cell in cells}) > 1]
    return [*axes, *(["seed"] if len({cell.seed for cell in cells}) > 1 else [])]


def _scores(samples: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each metric over the samples that have it, or its statistic of the cell.

    With many unread outputs it has `<metric>_low` and `<metric>_high`, as no number between them means anything; a
    run-level metric has neither.
    """
    from experiments.stats.bounds import is_wide

    means = {}
    for name, metric in metrics.items():
        values: Sequence[float | None] = [sample.get("scores", {}).get(name) for sample in samples]
        if hasattr(metric, "run_level"):
            cell = [scored_sample(sample, value) for sample, value in zip(samples, values, strict=True)]
            values = run_statistic(metric.run_level(cell)).numbers().tolist()
        unread = [name in sample.get("unread", ()) for sample in samples]
        if is_wide(sum(unread) / len(samples)):
            if not hasattr(metric, "run_level"):
                ends = [
                    [end if flag else value for flag, value in zip(unread, values, strict=True)] for end in (0.0, 1.0)
                ]
                for end, own in zip(("low", "high"), ends, strict=True):
                    scored = [float(value) for value in own if value is not None and not math.isnan(value)]
                    means[f"{name}_{end}"] = math.fsum(scored) / len(scored)
            continue
        numbers = [float(value) for value in values if value is not None and not math.isnan(value)]
        if numbers:
            means[name] = math.fsum(numbers) / len(numbers)
    return means
