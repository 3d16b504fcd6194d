"""The runner: a grid's missing samples, computed with nothing done twice, each written when it is finished.

Work is ordered by model, task and number of shots; within these by windows of queries, each with all retrievers, seeds,
orders and decodings that read them. So prompts that are equal meet in one call of the engine, a model is loaded once,
and memory holds one window, whatever the length of the run. The order changes no sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.contexts.context_overflow import ContextOverflow
from experiments.contexts.contexts import RenderedSample, Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.repeated_images import RepeatedImages
from experiments.contexts.size_estimate import estimate_sizes
from experiments.grid.grid import Cell, Grid
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
from icl.types import Sample
from icl.user_errors import TracebackLog, collect_tracebacks

if TYPE_CHECKING:
    from icl.models.base import Model

BLOCK = 64
"""Queries whose demonstrations are retrieved together."""

WINDOW_TOKENS = 65_536
WINDOW_SAMPLES = 1024
"""A window ends with the query that reaches one of these. A larger one batches better and takes more memory."""

TRACEBACKS = "errors.log"
"""In the run directory: what somebody's own components raised."""

MAX_INITIAL_FAILURES = 50
"""Failures in a row, from the first sample on, after which a run stops instead of failing a grid sample by sample."""


@dataclass(frozen=True)
class RunOutcome:
    """What a session did. present: samples that were there before; failed: without an answer now.

    missing: samples that a worker was to compute and did not. jobs: those that were submitted and not waited for.
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
    """Computes what is missing. worker: whose files samples go to; of: how many workers share the room for images."""

    def __init__(
        self,
        grid: Grid,
        store: Store,
        work: RunState,
        progress: Progress,
        session: CostLog,
        *,
        worker: str = "0",
        of: int = 1,
    ) -> None:
        self.grid, self.store, self.work, self.progress, self.session = grid, store, work, progress, session
        self.worker, self.room = worker, MAX_IMAGE_BYTES // of
        self.recorder = Recorder(grid.metrics)
        self.album = ImageStore(store.folder / "images")
        self.repeats, self.fits = RepeatedImages(), ContextOverflow()
        self.log = TracebackLog(store.folder / TRACEBACKS)
        self.failed = self.computed = 0

    def outcome(self) -> RunOutcome:
        self.progress.begin(len(self.grid.cells), self.work.total, self.work.cells_done, self.work.present)
        try:
            with SampleWriter(self.store, self.worker) as self.writer, infrequent_gc(), collect_tracebacks(self.log):
                for model in self.grid.models:
                    self._model(model)
        finally:
            self.album.close()
            self.progress.end()
        if self.album.problem:
            self.progress.note(self.album.problem)
        if self.log.traces:
            self.progress.note(f"what failed in components of your own stands with its traceback in {self.log.path}.")
        for note in (*self.repeats.notes(), *self.fits.notes()):
            self.progress.note(note)
        told = self.work
        return RunOutcome(self.store.folder, told.total, told.present, self.computed, self.failed, self.grid.warnings)

    def _model(self, model: "Model") -> None:
        groups = [cells for cells in _groups(self.grid, model) if any(self.work.missing[c.digest] for c in cells)]
        if not groups:
            return
        if model.plans_prompt_sizes:
            room = estimate_sizes([cell for cells in groups for cell in cells])
            model.expect_prompts(room.images, room.tokens)
        self.progress.set_phase(self._loading(model), reset_rate=True)
        model.load()
        for note in model.notes:
            self.progress.note(f"model: {note}")
        retrieval: Retrieval | None = None
        try:
            for cells in groups:
                if retrieval is None or retrieval.task is not cells[0].task:
                    retrieval = Retrieval(cells[0].task, model)
                self._group(model, cells, retrieval)
        finally:
            self.session.count(model)
            model.unload()

    def _loading(self, model: "Model") -> str:
        """Which one, where there are several."""
        label = next(str(cell.labels["model"]) for cell in self.grid.cells if cell.model is model)
        return f"loading the model {label}" if len(self.grid.models) > 1 else "loading the model"

    def _group(self, model: "Model", cells: Sequence[Cell], retrieval: Retrieval) -> None:
        task = cells[0].task
        self.progress.set_phase("finding demonstrations")
        self.album.room = self.room * (1 + self.grid.tasks.index(task)) // len(self.grid.tasks)
        for window in self._windows(cells, retrieval):
            asked = [SampleRequest(cell, item, item.prompt) for cell, item in window if item.prompt is not None]
            self.album.keep(image for one in asked for image in one.prompt.images)
            for cell, item in window:
                self.repeats.see(cell, item)
                self.fits.add(cell, item)
                if item.prompt is None:
                    self._record(self.recorder.without_prompt(cell, item))
            self.progress.set_phase("answering")
            self._answer(model, asked)
            self.recorder.forget()
            self.session.save(model)

    def _answer(self, model: "Model", asked: Sequence[SampleRequest]) -> None:
        def done(one: SampleRequest, said: Answer) -> None:
            self._record(self.recorder.sample(one, said))

        config = self.grid.config
        answer(model, asked, self.session.counters, done, top=config.top_logprobs, lazy_branches=config.lazy_branches)

    def _windows(self, cells: Sequence[Cell], retrieval: Retrieval) -> Iterator[list[tuple[Cell, RenderedSample]]]:
        """Samples that are missing, query by query, until a window is full."""
        missing = {cell.digest: self.work.missing[cell.digest] for cell in cells}
        cells = [cell for cell in cells if missing[cell.digest]]
        recipes = prompt_specs(cells)
        wanted: set[str] = set().union(*missing.values())
        queries = [query for query in cells[0].task.queries if query.id in wanted]
        blocks = (queries[i : i + BLOCK] for i in range(0, len(queries), BLOCK))
        rows = (row for block in blocks for row in build_contexts(retrieval, recipes, block))
        branches = _branches(cells)
        window: list[tuple[Cell, RenderedSample]] = []
        tokens = 0
        for row in prefetch_images(rows, _images):
            for arranged in row:
                readers = [c for c in arranged.spec.cells if arranged.example.id in missing[c.digest]]
                if readers:
                    item = render(arranged)
                    window += [(cell, item) for cell in readers]
                    tokens += _tokens(readers, item, branches)
            if tokens >= WINDOW_TOKENS or len(window) >= WINDOW_SAMPLES:
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _record(self, sample: Sample) -> None:
        """Writes a finished sample, and says what became of it."""
        self.writer.append(sample.cell, [sample])
        self.computed += 1
        self.progress.advance(1)
        missing = self.work.missing[sample.cell]
        missing.discard(sample.query)
        if not missing:
            self.progress.cell_finished()
        if sample.failed:
            self.failed += 1
            self.progress.failed(sample.query, sample.failed)
            if self.failed == self.computed >= MAX_INITIAL_FAILURES:
                raise DataError(f"the first {self.failed} samples all failed; the last one: {sample.failed}")


def _groups(grid: Grid, model: "Model") -> list[list[Cell]]:
    """The model's cells by task and shots, tasks together, few shots first."""
    found: dict[tuple[int, int], list[Cell]] = {}
    order = {id(task): i for i, task in enumerate(grid.tasks)}
    for cell in grid.cells:
        if cell.model is model:
            found.setdefault((order[id(cell.task)], cell.shots), []).append(cell)
    return [found[key] for key in sorted(found)]


def _images(row: Sequence[RenderedSample]) -> list[Image]:
    """Of the query and of all demonstrations of a row."""
    shown = [demo.example for item in row for demo in item.context.demos]
    return [*row[0].example.images, *(image for example in shown for image in example.images)]


def _branches(cells: Sequence[Cell]) -> dict[str, int]:
    """Prompts that each cell's strategy reads; 0 where the model only answers and nothing is prefilled."""
    from decoding.arms.inspection import probe_branches

    found: dict[int, int] = {}
    for cell in cells:
        if id(cell.decoding) not in found:
            logits = "logits" in cell.model.abilities
            found[id(cell.decoding)] = len(probe_branches(cell.decoding.strategy)) if logits else 0
    return {cell.digest: found[id(cell.decoding)] for cell in cells}


def _tokens(cells: Sequence[Cell], item: RenderedSample, branches: Mapping[str, int]) -> int:
    """Tokens of the item's prompt in all branches of all arms, the reference once: at most what will be prefilled."""
    model = cells[0].model
    if item.prompt is None or not branches[cells[0].digest]:
        return 0
    return model.count_tokens(item.prompt) * (1 + sum(branches[cell.digest] - 1 for cell in cells))
