"""How long a run takes, from a pilot: the real runner computes a few queries of each cost class in a temporary folder.

A cost class is what the runner computes together: the cells of one model, task and number of shots. The time of a query
in all of its cells is nearly constant, so that

    time = setup + sum over classes of (first + queries * rate)

`first` is what the first queries take beyond the rate, such as embedding a pool. Blocks of queries double in size,
because larger batches are faster, until their rates are equal or the time of the class is used up. The rate is measured
on the last block, and its spread is the range of the last two. Setup is everything else, mostly loading the models.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.contexts.contexts import Retrieval
from experiments.grid.grid import Cell, Grid
from experiments.running.run_session import CostLog
from experiments.running.runner import Runner
from experiments.stats.bounds import is_wide
from experiments.store import Invocation, RunState, Store
from experiments.terminal.progress import SilentProgress, format_duration
from icl import Model, PlanError

PILOT_SECONDS = 120.0
"""The time of a pilot, without loading models. One block of queries is always finished."""

FIRST_BLOCK = 2
"""Queries of the first block of a class."""

MAX_SHARE = 0.25
"""The largest share of a class's queries that a pilot computes, if three blocks are fewer."""

EQUAL_RATES = 0.05
"""Blocks whose rates differ by at most this share end the pilot of a class."""

MAX_CLASSES = 6
"""Classes that are named, the slowest first."""


@dataclass(frozen=True)
class ClassTime:
    """The times of one cost class.

    Attributes:
        name: Task, shots and, if there are several, the model.
        queries: Queries of the task that are missing in some cell.
        blocks: (queries, seconds) of each block that was computed.
    """

    name: str
    queries: int
    blocks: tuple[tuple[int, float], ...]

    @property
    def is_complete(self) -> bool:
        """Whether the pilot computed all queries, so that nothing is estimated."""
        return sum(n for n, _ in self.blocks) >= self.queries

    @property
    def rates(self) -> tuple[float, float, float]:
        """Seconds per query: of the last block, and the smallest and largest of the last two."""
        last = [seconds / n for n, seconds in self.blocks[1:][-2:] or self.blocks]
        return last[-1], min(last), max(last)

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Estimated time of the class, with the ends of its spread."""
        n, first = self.blocks[0]
        if self.is_complete:
            return (sum(seconds for _, seconds in self.blocks),) * 3
        estimate, low, high = (max(0.0, first - rate * n) + rate * self.queries for rate in self.rates)
        return estimate, min(low, high, estimate), max(low, high, estimate)


@dataclass(frozen=True)
class RunTime:
    """The estimated time of a run.

    Attributes:
        setup: Seconds before and between the classes.
        classes: The cost classes.
        samples: Samples that the pilot computed.
        of: Samples that are missing.
        failed: Samples of the pilot without an answer.
        reason: Why the first failed sample has no answer.
        unread: Outputs of the pilot that a metric cannot read with certainty.
    """

    setup: float
    classes: tuple[ClassTime, ...]
    samples: int
    of: int
    failed: int = 0
    reason: str = ""
    unread: int = 0

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Seconds, and the ends of their spread."""
        estimate, low, high = (self.setup + sum(one.seconds[i] for one in self.classes) for i in range(3))
        return estimate, low, high

    @property
    def pilot_seconds(self) -> float:
        return self.setup + sum(seconds for one in self.classes for _, seconds in one.blocks)

    def lines(self, workers: int = 0) -> Iterator[str]:
        """What the plan says."""
        estimate, low, high = map(format_duration, self.seconds)
        spread = f" ({low} to {high})" if low != high else ""
        share = f"{self.samples:,} of {self.of:,} samples in {format_duration(self.pilot_seconds)}"
        yield f"about {estimate}{spread} on this machine, without the report; from a pilot of {share}"
        slowest = sorted(self.classes, key=lambda one: -one.seconds[0])
        names = ", ".join(f"{one.name} {format_duration(one.seconds[0])}" for one in slowest[:MAX_CLASSES])
        more = f", and {len(slowest) - MAX_CLASSES} more" if len(slowest) > MAX_CLASSES else ""
        yield f"setup {format_duration(self.setup)}, {names}{more}"
        if workers:
            yield f"this is one process; {workers} workers share the samples, and each has the setup"
        if self.failed:
            yield f"{self.failed:,} samples of the pilot failed, which takes less time: {self.reason}"
        if is_wide(self.unread / self.samples):
            what = f"{self.unread:,} of {self.samples:,} outputs of the pilot are unread"
            yield f"{what}: ask for a form of answer (composer.answer), score options, or plan to label (`icl label`)"


def time_run(
    grid: Grid, state: RunState, report: Callable[[str, int, int], None], seconds: float = PILOT_SECONDS
) -> RunTime:
    """Runs a pilot. Nothing of it is kept.

    Args:
        grid: A checked grid.
        state: What is missing.
        report: Receives progress.
        seconds: The time of the pilot, without loading models.

    Raises:
        ICLError: As a run would.
        PlanError: No sample is missing, or all samples of the pilot failed.
    """
    missing = {digest: set(queries) for digest, queries in state.missing.items()}
    of = sum(map(len, missing.values()))
    if not of:
        raise PlanError("there is no time to estimate: all samples are finished.")
    with tempfile.TemporaryDirectory(prefix="icl-pilot-") as folder:
        store = Store(Path(folder))
        started = time.perf_counter()
        progress = _Failures()
        pilot = PilotRunner(grid, store, replace(state, missing=missing), progress, _NoLog(store, Invocation(store)))
        pilot.seconds, pilot.report = seconds, report
        pilot.run()
        total = time.perf_counter() - started
        unread = sum(bool(line.get("unread")) for cell in grid.cells for line in store.samples(cell.digest))
    if pilot.failed == pilot.computed:
        raise PlanError(
            f"all {pilot.failed} samples of the pilot failed, so no time can be estimated: {progress.reason}"
        )
    classes = tuple(pilot.classes)
    setup = max(0.0, total - sum(seconds for one in classes for _, seconds in one.blocks))
    return RunTime(setup, classes, pilot.computed, of, pilot.failed, progress.reason, unread)


class PilotRunner(Runner):
    """A runner that computes a few blocks of queries of each cost class and times them."""

    seconds: float = PILOT_SECONDS
    report: Callable[[str, int, int], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.classes: list[ClassTime] = []
        self.num_classes = len({(id(cell.model), id(cell.task), cell.shots) for cell in self.grid.cells})

    def _run_group(self, model: Model, cells: Sequence[Cell], retrieval: Retrieval) -> None:
        ids = {name for cell in cells for name in self._left(cell)}
        queries = [query.id for query in cells[0].task.queries if query.id in ids]
        everything, blocks, done = self.needed, list[tuple[int, float]](), 0
        budget, self.seconds = self._budget()
        started = time.perf_counter()
        while done < len(queries):
            size = min(FIRST_BLOCK << len(blocks), len(queries) - done)
            if len(blocks) > 1 and time.perf_counter() - started + 2 * blocks[-1][1] > budget:
                break
            if len(blocks) > 2 and (done + size > MAX_SHARE * len(queries) or _are_equal(blocks[-2:])):
                break
            block = set(queries[done : done + size])
            self.needed = {cell.digest: everything.get(cell.digest, block) & block for cell in cells}
            before = time.perf_counter()
            super()._run_group(model, cells, retrieval)
            blocks.append((size, time.perf_counter() - before))
            done += size
            self.report("timing a pilot", len(self.classes), self.num_classes)
        self.needed = everything
        self.seconds += max(0.0, budget - (time.perf_counter() - started))
        self.classes.append(ClassTime(self._name(cells[0]), len(queries), tuple(blocks)))

    def _budget(self) -> tuple[float, float]:
        """The seconds of the next class, and those that remain for the others."""
        share = self.seconds / max(1, self.num_classes - len(self.classes))
        return share, self.seconds - share

    def _name(self, cell: Cell) -> str:
        model = f" · {cell.labels['model']}" if len(self.grid.models) > 1 else ""
        return f"{cell.labels['task']} · {cell.shots} {'shot' if cell.shots == 1 else 'shots'}{model}"


def _are_equal(blocks: Sequence[tuple[int, float]]) -> bool:
    """Whether two blocks took nearly the same time per query."""
    (before, after) = (seconds / n for n, seconds in blocks)
    return abs(before - after) <= EQUAL_RATES * min(before, after)


class _NoLog(CostLog):
    """The counters of a pilot, which are not written."""

    def _write(self, more: Mapping[str, Any]) -> None:
        """Nothing is stored."""


class _Failures(SilentProgress):
    """Keeps the reason of the first failed sample."""

    reason: str = ""

    def failed(self, sample: str, reason: str) -> None:
        super().failed(sample, reason)
        self.reason = self.reason or f"{sample}: {reason}"
