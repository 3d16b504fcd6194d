"""The runner: computes a grid's missing samples and writes each sample as soon as it is finished.

A cell is one setting under one seed. An arm is all cells that differ only in the seed. A sample is a cell's answer to a
query, with its scores.

    for each block of queries              all of them, or one look's queries        Stopping.rounds
      for each model                       one is in memory at a time                 Runner._run_model
        for each group                     cells of one task that can share prompts   Runner._run_group
          for each window of queries       until a limit of tokens or samples        Runner._run_window
            retrieve demonstrations, render prompts                                  experiments.running.windows
            answer all prompts in one call                                           experiments.running.generation
            score each answer, append the sample to the store                        experiments.running.recorder

A group has one number of shots, or several if longer prompts begin with the shorter ones (`cell_groups`).

With `stop` in the config, arms are compared at looks, each after a further part of the queries
(`experiments.stopping`). A block is what the next look needs; the first also has all queries of cells that no look
compares. Arms whose comparisons are decided get no more samples.

A window takes whole rows of this table: all missing samples (x) of a query. A dot is a sample that is in the store.
Cells of a row with equal prompts share one `PromptItem`.

              knn, seed 0   knn, seed 0, vcd   random, seed 0   random, seed 1
    query 1        x               x                 x                .
    query 2        x               x                 x                x         window 1
    ------------------------------------------------------------------------
    query 3        .               .                 x                x         window 2

So cells with equal prompts meet in one call of the engine, which prefills each prompt once: here the two knn cells.
For a run of any length, memory holds the window being answered, the next one, and a few queries whose images are
decoded ahead. The order of the work changes no sample.

While the model answers, one thread makes the next window of prompts, and one records the answers of this window. The
next window is answered when all are recorded:

    windows     window 1    | window 2    | window 3    |
    model                   | answer 1    | answer 2    | answer 3
    recorder                |    record 1 |    record 2 |    record 3

Only models that allow it (`icl.models.base.Model.enable_threads`) are used this way, and only if no retriever, orderer
or transform calls the model. Each thread works in the same order as a run without threads.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event
from typing import Any, TypeVar

from decoding.engine import unload_judges
from experiments.contexts import PromptNotes, Retrieval, estimate_sizes
from experiments.grid import Cell, Grid, loading_problems, locating
from experiments.running.generation import Answer, SampleRequest, answer
from experiments.running.image_store import MAX_IMAGE_BYTES, ImageStore
from experiments.running.preflight import Preflight
from experiments.running.recorder import Recorder
from experiments.running.run_session import CostLog, RunOutcome
from experiments.running.windows import JOINING_BATCHES, FailingArms, Window, Windows, cell_groups
from experiments.stopping.stopping import Stopping
from experiments.store import RunState, SampleWriter, Store, describe_probe
from experiments.terminal.progress import Progress
from icl import DataError, Model, ModelError, Sample, TracebackLog, collect_tracebacks
from retrievers.machinery.embedding_models import reserve_for_models

logger = logging.getLogger(f"icl.{__name__}")

TRACEBACK_FILE = "errors.log"
"""In the run directory: tracebacks of users' own components."""

MAX_INITIAL_FAILURES = 50
"""An arm is given up when its first 50 samples in this process all fail.

Samples that the run directory already has do not count. `FailingArms` says which arms are given up together.
"""


class Runner:
    """A computation of a grid's missing samples in this process.

    Args:
        grid: The cells.
        store: The run directory.
        state: What is missing. Finished samples are removed from it.
        progress: Receives progress, failures and notes.
        costs: Counts the work of the models and the engine.
        worker: Identifies this worker. Names its sample file in the folder of each cell.
        num_workers: Number of workers that share the limit of stored images.
        stopping: Ends arms whose comparisons are decided; by default everything is computed.
        on_cell: Called with the digest of each cell whose samples are all finished or failed.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        state: RunState,
        progress: Progress,
        costs: CostLog,
        *,
        worker: str = "0",
        num_workers: int = 1,
        stopping: Stopping | None = None,
        on_cell: Callable[[str], None] = lambda digest: None,
    ) -> None:
        self.grid, self.store, self.state, self.progress, self.costs = grid, store, state, progress, costs
        self.max_image_bytes = MAX_IMAGE_BYTES // num_workers
        self.recorder, self.writer = Recorder(grid.metrics), SampleWriter(store, worker, costs.invocation.id)
        self.image_store = ImageStore(store.folder / "images")
        self.prompt_notes = PromptNotes()
        self.tracebacks = TracebackLog(store.folder / TRACEBACK_FILE)
        self.failing = FailingArms([cell for cell in grid.cells if state.missing[cell.digest]], MAX_INITIAL_FAILURES)
        self.preflight = Preflight([cell for cell in grid.cells if state.missing[cell.digest]])
        self.work = {cell.digest: 1 + cell.num_demos for cell in grid.cells}
        """Cell digest -> work of a sample: prompts have as many parts as demonstrations and the query."""
        self.failed = self.computed = 0
        self.stopping, self.on_cell = stopping or Stopping(), on_cell
        self.needed: Mapping[str, set[str]] = {}
        """Cell digest -> queries that comparisons need before the next look. A cell without an entry needs all."""
        self.loaded: Model | None = None
        self.retrievals: dict[int, Retrieval] = {}
        self.window_thread, self.calls = ThreadPoolExecutor(1, thread_name_prefix="windows"), BackgroundCalls()
        self.is_stopped = Event()
        self.finished_cells: deque[str] = deque()

    def run(self) -> RunOutcome:
        """Computes everything that is missing. Raises ICLError if the run cannot go on."""
        state = self.state
        self.progress.begin(len(self.grid.cells), state.total, state.cells_done, state.present)
        self.progress.expect(sum(self.work[digest] * len(missing) for digest, missing in state.missing.items()))
        logger.info(
            "%s: %d cells, %d of %d samples to compute", self.store.folder, len(state.missing), state.left, state.total
        )
        try:
            with self.writer, collect_tracebacks(self.tracebacks):
                reserve_for_models(self.grid.models)
                self._check_loadable()
                self.preflight.check_prompts()
                self.preflight.check_memory()
                for needed in self.stopping.rounds(self._given_up, self.progress.note):
                    self.needed = needed
                    for model in self.grid.models:
                        self._run_model(model)
                self.stopping.restrict(self.state)
                given_up, untried = self.failing.describe(self.state.missing)
                self.costs.stop_reason = given_up
        finally:
            self.is_stopped.set()
            self.window_thread.shutdown(cancel_futures=True)
            self.calls.close()
            self._unload()
            self.image_store.close()
            self.progress.end()
        if self.image_store.problem:
            self.progress.note(self.image_store.problem)
        if self.tracebacks.traces:
            self.progress.note(f"tracebacks of errors in your own components are in {self.tracebacks.path}.")
        for note in self.prompt_notes.notes():
            self.progress.note(note)
        logger.info("%s: %d samples computed, %d of them failed", self.store.folder, self.computed, self.failed)
        return RunOutcome(
            self.store.folder,
            state.total,
            state.present,
            self.computed,
            self.failed,
            (*self.grid.warnings, *filter(None, [given_up])),
            missing=untried,
        )

    def _check_loadable(self) -> None:
        """Raises ModelError if a model of a missing sample cannot be loaded here: it has no weights, or no package."""
        needed = [model for model in self.grid.models if any(map(self._is_missing, cell_groups(self.grid, model)))]
        if problem := next(loading_problems(self.grid, needed), ""):
            raise ModelError(problem)

    def _is_missing(self, cells: Sequence[Cell]) -> bool:
        return any(self.state.missing[cell.digest] for cell in cells)

    def _given_up(self) -> set[str]:
        return {cell.digest for cell in self.failing.cells if self.failing.is_given_up(cell)}

    def _left(self, cell: Cell) -> set[str]:
        """The queries of a cell that are missing and needed."""
        missing = self.state.missing[cell.digest]
        return missing & self.needed.get(cell.digest, missing)

    def _run_model(self, model: Model) -> None:
        """Computes the model's groups, if any needed sample of them is missing."""
        groups = [cells for cells in cell_groups(self.grid, model) if any(self._left(c) for c in cells)]
        if not groups:
            return
        self._load(model)
        for cells in groups:
            task = id(cells[0].task)
            if task not in self.retrievals:
                if not self.stopping.families:  # a finished task does not come back; with looks it does
                    self.retrievals.clear()
                self.retrievals[task] = Retrieval(cells[0].task, model)
            self._run_group(model, cells, self.retrievals[task])
        self.costs.count(model)

    def _load(self, model: Model) -> None:
        if self.loaded is model:
            return
        self._unload()
        if model.plans_prompt_sizes:  # the engine reserves memory by these sizes when it loads
            model.expect_prompts(*estimate_sizes([cell for cell in self.grid.cells if cell.model is model]))
        label = next(str(cell.labels["model"]) for cell in self.grid.cells if cell.model is model)
        which = f" {label}" if len(self.grid.models) > 1 else ""
        self.progress.set_phase(f"loading the model{which}", reset_rate=True)
        with locating(self.grid, model):
            model.load()
        self.loaded = model
        logger.info("model %s is loaded", label)
        for note in model.notes:
            self.progress.note(f"model: {note}")
        if record := self.preflight.check_answer(model):
            self.costs.probes[label] = record
            self.progress.note(describe_probe(record))

    def _unload(self) -> None:
        """Counts the work of the loaded model and unloads it, and the models that chose among its sampled answers."""
        if self.loaded is not None:
            self.costs.count(self.loaded)
            self.loaded.unload()
            unload_judges()
            self.loaded = None
            self.retrievals.clear()

    def _run_group(self, model: Model, cells: Sequence[Cell], retrieval: Retrieval) -> None:
        """Computes the missing samples of one of the `cell_groups`, window by window."""
        task = cells[0].task
        # Task i of n (from 0) may fill the store up to (i+1)/n of the limit, so that early tasks cannot use all of it.
        self.image_store.max_bytes = self.max_image_bytes * (1 + self.grid.tasks.index(task)) // len(self.grid.tasks)
        self.progress.set_phase("retrieving demonstrations")
        missing = {cell.digest: self._left(cell) for cell in cells}
        self.failing.begin_group([cell for cell in cells if missing[cell.digest]])
        min_tokens = JOINING_BATCHES * (model.max_batch_tokens or 0) if self.grid.config.continuous_batching else 0
        windows = Windows(cells, missing, retrieval, self.failing, self.is_stopped, min_tokens)
        if windows.may_run_ahead and model.enable_threads():
            with short_switches():
                for window in one_ahead(iter(windows), self.window_thread):
                    self._run_window(model, window, self.calls.submit)
        else:
            for window in windows:
                self._run_window(model, window)

    def _run_window(self, model: Model, window: Window, run_in_thread: Callable[..., None] | None = None) -> None:
        """Answers the samples of a window and records them. run_in_thread: makes a call in another thread."""
        # An arm may have been given up after this window was made.
        window = [(cell, item) for cell, item in window if not self.failing.is_given_up(cell)]
        requests = [SampleRequest(cell, item, item.prompt) for cell, item in window if item.prompt is not None]
        self.image_store.save(image for request in requests for image in request.prompt.images)
        for cell, item in window:
            self.prompt_notes.add(cell, item)
            if item.prompt is None:
                self._record(self.recorder.without_prompt(cell, item))
        self.progress.set_phase("answering")
        try:
            self._answer(model, requests, run_in_thread)
        finally:  # an interrupt loses no answer
            self.calls.wait()
            while self.finished_cells:
                self.on_cell(self.finished_cells.popleft())
        self.recorder.clear_shared()
        self.costs.save(model)
        self.progress.set_phase("retrieving demonstrations")

    def _answer(
        self, model: Model, requests: Sequence[SampleRequest], run_in_thread: Callable[..., None] | None = None
    ) -> None:
        def on_answer(request: SampleRequest, result: Answer) -> None:
            if run_in_thread is None:
                self._record_answer(request, result)
            else:
                run_in_thread(self._record_answer, request, result)

        config, counters = self.grid.config, self.costs.counters
        answer(
            model,
            requests,
            counters,
            on_answer,
            top_logprobs=config.top_logprobs,
            lazy_branches=config.lazy_branches,  # whether contrast branches wait until a step needs them
            continuous_batching=config.continuous_batching,
        )

    def _record_answer(self, request: SampleRequest, result: Answer) -> None:
        self._record(self.recorder.sample(request, result))

    def _record(self, sample: Sample) -> None:
        """Writes a finished sample and reports it."""
        self.writer.append(sample.cell, [sample])
        self.computed += 1
        self.progress.advance(1, self.work[sample.cell])
        missing = self.state.missing[sample.cell]
        missing.discard(sample.query)
        if not missing:
            self.progress.cell_finished()
            self.finished_cells.append(sample.cell)
        self.failing.add(sample)
        if sample.failed:
            self.failed += 1
            self.progress.failed(sample.query, sample.failed)
            if self.failing.all_given_up and not self.state.present:
                raise DataError(f"the first {self.failed} samples all failed; the last one: {sample.failed}")


T = TypeVar("T")

SWITCH_SECONDS = 0.0005
"""Time that a thread of Python code keeps the interpreter. Python's default of 5 ms would delay each operation of the
model by 5 ms, because every operation releases the interpreter."""

_END: Any = object()


def one_ahead(items: Iterator[T], thread: Executor) -> Iterator[T]:
    """Yields the items. Each is made in the thread while the caller works on the one before."""
    context = copy_context()

    def make() -> T:
        return context.run(lambda: next(items, _END))

    item = thread.submit(make)
    while (current := item.result()) is not _END:
        item = thread.submit(make)
        yield current


class BackgroundCalls:
    """A thread that makes calls in order. An exception is raised by the next `submit` or `wait`; no call follows it."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self.calls: deque[Future[None]] = deque()
        self.has_failed = False

    def submit(self, call: Callable[..., None], *arguments: Any) -> None:
        """Makes a call after all earlier ones."""
        while self.calls and self.calls[0].done():
            self.calls.popleft().result()
        self.calls.append(self.thread.submit(copy_context().run, self._call, call, *arguments))

    def wait(self) -> None:
        """Returns when all calls are made."""
        while self.calls:
            self.calls.popleft().result()

    def close(self) -> None:
        """Waits for the calls and ends the thread."""
        self.thread.shutdown()

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        if self.has_failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self.has_failed = True
            raise


@contextmanager
def short_switches() -> Iterator[None]:
    """Lowers the interpreter's switch interval to `SWITCH_SECONDS` in the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
