"""The runner: computes a grid's missing samples and writes each sample as soon as it is finished.

    for each model                         loaded once                               Runner._run_model
      for each group                       cells of one task and number of shots     Runner._run_group
        for each window of queries         until a limit of tokens or samples        Runner._windows
          retrieve demonstrations, render prompts                                    experiments.contexts
          answer all prompts in one call                                             experiments.running.generation
          score each answer, append the sample to the store                          experiments.running.recorder

A window takes whole rows of this table: all missing samples (x) of a query. A dot is a sample that is in the store.

              knn, seed 0   knn, seed 0, vcd   random, seed 0   random, seed 1
    query 1        x               x                 x                .
    query 2        x               x                 x                x         window 1
    ------------------------------------------------------------------------
    query 3        .               .                 x                x         window 2

So cells with equal prompts meet in one call of the engine, which prefills each prompt once: here the two knn cells.
Memory holds one window, whatever the length of the run. The order of the work changes no sample.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.contexts.context_overflow import ContextOverflow
from experiments.contexts.contexts import RenderedSample, Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.repeated_images import RepeatedImages
from experiments.contexts.size_estimate import estimate_sizes
from experiments.grid.grid import Cell, Grid
from experiments.running.failing_arms import FailingArms
from experiments.running.gc_tuning import infrequent_gc
from experiments.running.generation import Answer, SampleRequest, answer
from experiments.running.image_store import MAX_IMAGE_BYTES, ImageStore, prefetch_images
from experiments.running.recorder import Recorder
from experiments.running.run_session import CostLog
from experiments.store.run_state import RunState
from experiments.store.store import SampleWriter, Store
from experiments.terminal.progress import Progress
from icl.errors import DataError
from icl.images import Image
from icl.types import Example, Sample
from icl.user_errors import TracebackLog, collect_tracebacks

if TYPE_CHECKING:
    from icl.models.base import Model

logger = logging.getLogger(f"icl.{__name__}")

RETRIEVAL_BATCH = 64
"""Queries whose demonstrations are retrieved together."""

WINDOW_TOKENS = 65_536
WINDOW_SAMPLES = 1024
"""A window ends with the query that reaches one of these. A larger one batches better and takes more memory."""

TRACEBACK_FILE = "errors.log"
"""In the run directory: tracebacks of users' own components."""

MAX_INITIAL_FAILURES = 50
"""Failures in a row, from the first sample on, after which the runner gives an arm up."""


@dataclass(frozen=True)
class RunOutcome:
    """The result of one call of `run`.

    Attributes:
        folder: The run directory.
        samples: Samples of the grid.
        present: Samples that were finished before.
        computed: Samples that were computed now.
        failed: Samples without an answer.
        warnings: The grid's warnings.
        missing: Samples that a worker should have computed and did not.
        jobs: Jobs that were submitted and are not waited for.
    """

    folder: Path
    samples: int
    present: int
    computed: int
    failed: int
    warnings: tuple[str, ...] = ()
    missing: int = 0
    jobs: tuple[str, ...] = ()


class Runner:
    """A computation of a grid's missing samples in this process.

    Args:
        grid: The cells.
        store: The run directory.
        work: What is missing. Finished samples are removed from it.
        progress: Receives progress, failures and notes.
        session: Counts costs.
        worker: Name of the files that samples are written to.
        num_workers: Number of workers that share the limit of stored images.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        work: RunState,
        progress: Progress,
        session: CostLog,
        *,
        worker: str = "0",
        num_workers: int = 1,
    ) -> None:
        self.grid, self.store, self.work, self.progress, self.session = grid, store, work, progress, session
        self.worker, self.max_image_bytes = worker, MAX_IMAGE_BYTES // num_workers
        self.recorder = Recorder(grid.metrics)
        self.image_store = ImageStore(store.folder / "images")
        self.repeated_images, self.overflow = RepeatedImages(), ContextOverflow()
        self.tracebacks = TracebackLog(store.folder / TRACEBACK_FILE)
        self.failing = FailingArms([cell for cell in grid.cells if work.missing[cell.digest]], MAX_INITIAL_FAILURES)
        self.failed = self.computed = 0

    def run(self) -> RunOutcome:
        """Computes everything that is missing. Raises ICLError if the run cannot go on."""
        work = self.work
        self.progress.begin(len(self.grid.cells), work.total, work.cells_done, work.present)
        logger.info(
            "%s: %d cells, %d of %d samples to compute", self.store.folder, len(work.missing), work.left, work.total
        )
        try:
            with (
                SampleWriter(self.store, self.worker) as self.writer,
                infrequent_gc(),
                collect_tracebacks(self.tracebacks),
            ):
                for model in self.grid.models:
                    self._run_model(model)
                given_up, untried = self.failing.describe(self.work.missing)
                self.session.stop_reason = given_up
        finally:
            self.image_store.close()
            self.progress.end()
        if self.image_store.problem:
            self.progress.note(self.image_store.problem)
        if self.tracebacks.traces:
            self.progress.note(f"tracebacks of errors in your own components are in {self.tracebacks.path}.")
        for note in (*self.repeated_images.notes(), *self.overflow.notes()):
            self.progress.note(note)
        logger.info("%s: %d samples computed, %d of them failed", self.store.folder, self.computed, self.failed)
        return RunOutcome(
            self.store.folder,
            work.total,
            work.present,
            self.computed,
            self.failed,
            (*self.grid.warnings, *filter(None, [given_up])),
            missing=untried,
        )

    def _run_model(self, model: "Model") -> None:
        """Loads the model and computes its groups, if any sample of them is missing."""
        groups = [cells for cells in _groups(self.grid, model) if any(self.work.missing[c.digest] for c in cells)]
        if not groups:
            return
        if model.plans_prompt_sizes:
            sizes = estimate_sizes([cell for cells in groups for cell in cells])
            model.expect_prompts(sizes.images, sizes.tokens)
        label = next(str(cell.labels["model"]) for cell in self.grid.cells if cell.model is model)
        which = f" {label}" if len(self.grid.models) > 1 else ""
        self.progress.set_phase(f"loading the model{which}", reset_rate=True)
        model.load()
        logger.info("model %s is loaded", label)
        for note in model.notes:
            self.progress.note(f"model: {note}")
        retrieval: Retrieval | None = None
        try:
            for cells in groups:
                if retrieval is None or retrieval.task is not cells[0].task:
                    retrieval = Retrieval(cells[0].task, model)
                self._run_group(model, cells, retrieval)
        finally:
            self.session.count(model)
            model.unload()

    def _run_group(self, model: "Model", cells: Sequence[Cell], retrieval: Retrieval) -> None:
        """Computes the missing samples of cells of one model, task and number of shots, window by window."""
        task = cells[0].task
        self.progress.set_phase("finding demonstrations")
        self.image_store.max_bytes = self.max_image_bytes * (1 + self.grid.tasks.index(task)) // len(self.grid.tasks)
        for window in self._windows(cells, retrieval):
            requests = [SampleRequest(cell, item, item.prompt) for cell, item in window if item.prompt is not None]
            self.image_store.save(image for request in requests for image in request.prompt.images)
            for cell, item in window:
                self.repeated_images.add(cell, item)
                self.overflow.add(cell, item)
                if item.prompt is None:
                    self._record(self.recorder.without_prompt(cell, item))
            self.progress.set_phase("answering")
            self._answer(model, requests)
            self.recorder.clear()
            self.session.save(model)

    def _answer(self, model: "Model", requests: Sequence[SampleRequest]) -> None:
        def on_answer(request: SampleRequest, result: Answer) -> None:
            self._record(self.recorder.sample(request, result))

        config, counters = self.grid.config, self.session.counters
        answer(
            model,
            requests,
            counters,
            on_answer,
            top_logprobs=config.top_logprobs,
            lazy_branches=config.lazy_branches,
        )

    def _windows(self, cells: Sequence[Cell], retrieval: Retrieval) -> Iterator[list[tuple[Cell, RenderedSample]]]:
        """The missing samples with their prompts, query by query, in windows."""
        missing = {cell.digest: self.work.missing[cell.digest] for cell in cells}
        cells = [cell for cell in cells if missing[cell.digest]]
        self.failing.begin_group(cells)
        missing_ids: set[str] = set().union(*missing.values())
        queries = [query for query in cells[0].task.queries if query.id in missing_ids]
        batches = (queries[i : i + RETRIEVAL_BATCH] for i in range(0, len(queries), RETRIEVAL_BATCH))
        rows = (row for batch in batches for row in self._rows(cells, retrieval, batch))
        num_branches = _num_branches(cells)
        window: list[tuple[Cell, RenderedSample]] = []
        tokens = 0
        for row in prefetch_images(rows, _images):
            for item in row:
                readers = [
                    cell
                    for cell in item.spec.cells
                    if item.example.id in missing[cell.digest] and not self.failing.is_given_up(cell)
                ]
                if readers:
                    rendered = render(item)
                    window += [(cell, rendered) for cell in readers]
                    tokens += _prefill_tokens(readers, rendered, num_branches)
            if tokens >= WINDOW_TOKENS or len(window) >= WINDOW_SAMPLES:
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _rows(
        self, cells: Sequence[Cell], retrieval: Retrieval, queries: Sequence[Example]
    ) -> Iterator[list[RenderedSample]]:
        """Yields for each query its context in every cell that is not given up."""
        if specs := prompt_specs([cell for cell in cells if not self.failing.is_given_up(cell)]):
            yield from build_contexts(retrieval, specs, queries)

    def _record(self, sample: Sample) -> None:
        """Writes a finished sample and reports it."""
        self.writer.append(sample.cell, [sample])
        self.computed += 1
        self.progress.advance(1)
        missing = self.work.missing[sample.cell]
        missing.discard(sample.query)
        if not missing:
            self.progress.cell_finished()
        self.failing.add(sample)
        if sample.failed:
            self.failed += 1
            self.progress.failed(sample.query, sample.failed)
            if self.failing.all_given_up and not self.work.present:
                raise DataError(f"the first {self.failed} samples all failed; the last one: {sample.failed}")


def _groups(grid: Grid, model: "Model") -> list[list[Cell]]:
    """The model's cells by task and number of shots, in the order of the tasks, few shots first."""
    groups: dict[tuple[int, int], list[Cell]] = {}
    order = {id(task): i for i, task in enumerate(grid.tasks)}
    for cell in grid.cells:
        if cell.model is model:
            groups.setdefault((order[id(cell.task)], cell.shots), []).append(cell)
    return [groups[key] for key in sorted(groups)]


def _images(row: Sequence[RenderedSample]) -> list[Image]:
    """The images of a row's query and of all its demonstrations."""
    examples = [demo.example for item in row for demo in item.context.demos]
    return [*row[0].example.images, *(image for example in examples for image in example.images)]


def _num_branches(cells: Sequence[Cell]) -> dict[str, int]:
    """Cell digest -> number of its strategy's branches; 0 if the model gives no logits, so nothing is prefilled."""
    from decoding.arms.inspection import probe_branches

    by_arm: dict[int, int] = {}
    for cell in cells:
        if id(cell.decoding) not in by_arm:
            has_logits = "logits" in cell.model.abilities
            by_arm[id(cell.decoding)] = len(probe_branches(cell.decoding.strategy)) if has_logits else 0
    return {cell.digest: by_arm[id(cell.decoding)] for cell in cells}


def _prefill_tokens(cells: Sequence[Cell], item: RenderedSample, num_branches: Mapping[str, int]) -> int:
    """An upper limit of the tokens to prefill for one prompt in these cells. They share the reference branch."""
    model = cells[0].model
    if item.prompt is None or not num_branches[cells[0].digest]:
        return 0
    return model.count_tokens(item.prompt) * (1 + sum(num_branches[cell.digest] - 1 for cell in cells))
