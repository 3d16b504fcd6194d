"""Compute a few samples of a run again, with the same cells, and compare them with the stored ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.grid.feasibility import check_requirements, data_digests
from experiments.grid.grid import Cell, Grid, expand
from experiments.results.loaded_run import Run
from experiments.running.recorder import stored_answer_scores
from experiments.running.run_session import RunSession
from experiments.running.runner import Runner
from experiments.stats.formatting import format_count
from experiments.stopping.stopping import open_stopping
from experiments.store.invocations import Invocation
from experiments.store.run_state import (
    RunState,
    describe_cells,
    describe_metrics,
    json_round_trip,
    load_run_state,
    write_cells,
)
from experiments.store.store import Store
from experiments.terminal.progress import Progress
from icl.errors import StoreError
from icl.types import Example

SCORE_TOLERANCE = 1e-6
CHECKED_ELSEWHERE = ("metrics", "data")
"""Keys of cell.json that another version may write otherwise: `wrong_scores` and `grid_of` check their content."""
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Recomputed:
    """One sample of the run and the same sample as it was computed again.

    Attributes:
        cell: The cell.
        stored: The sample of the run.
        again: The new sample; None if it was not computed, because its arm was given up.
    """

    cell: Cell
    stored: Sample
    again: Sample | None

    @property
    def same_prompt(self) -> bool:
        """Whether prompt, images and demonstrations are equal. Batches have no influence on them.

        A sample that failed before its prompt was built has no prompt that could differ.
        """
        before = self.stored.get("prompt_digest")
        if self.again is None or not before:
            return bool(self.stored.get("failed"))
        return bool(before == self.again.get("prompt_digest"))

    @property
    def same_answer(self) -> bool:
        """Whether the answers are equal; if options were scored, whether the best one is; or whether both failed.

        An arm that was given up here has failed.
        """
        if self.stored.get("failed"):
            return self.again is None or bool(self.again.get("failed"))
        return self.again is not None and not self.again.get("failed") and _answer(self.stored) == _answer(self.again)

    def describe(self) -> str:
        """'decoding vcd, query q-1, seed 0: "red" in the run, "blue" here'."""
        stored, again = _text(self.stored), _text(self.again) if self.again else "no answer"
        what = f"{stored} in the run, {again} here" if self.same_prompt else "another prompt than in the run"
        return f"{describe_cell(self.cell.labels)}, query {self.stored['query']}, seed {self.cell.seed}: {what}"


def describe_cell(labels: Mapping[str, Any]) -> str:
    """The labels by which a reader finds the arm."""
    axes = ("task", "model", "shots", "retriever", "decoding")
    return ", ".join(f"{axis} {labels[axis]}" for axis in axes if axis in labels)


def grid_of(run: Run, cells: Mapping[str, Mapping[str, Any]]) -> Grid:
    """The grid of the run's config, which must have the same cells and data as the card.

    Args:
        run: The run directory.
        cells: The cells of the card.

    Raises:
        StoreError: The config gives other cells here: another checkpoint, component or data.
    """
    grid = expand(run.load_config())
    here = {cell.digest: cell for cell in grid.cells}
    if missing := [digest for digest in cells if digest not in here]:
        labels = cells[missing[0]].get("labels", {})
        twin = next((c for c in grid.cells if all(c.labels.get(a) == v for a, v in labels.items())), None)
        other_model = twin is not None and twin.model.digest != cells[missing[0]].get("model_digest")
        why = "the weights or settings of its model have changed" if other_model else "a component has changed"
        raise StoreError(
            f"{len(missing)} of {len(cells)} cells of the card cannot be computed here, such as "
            f"{describe_cell(labels)}: {why}. Use the checkpoint and the version of mm-icl that the card names."
        )
    for task in grid.tasks:
        digests = data_digests(task)
        for cell in (cell for cell in grid.cells if cell.task is task and cell.digest in cells):
            for key, what in (("queries", "queries"), ("pool", "demonstrations")):
                before = cells[cell.digest].get("data", {}).get(key)
                if before is not None and before != digests[key]:
                    raise StoreError(
                        f"the {what} of task '{task.title}' are not those of the card ({key} digest {before[:8]}…, "
                        f"here {digests[key][:8]}…). Use the same data."
                    )
    return grid


def wrong_descriptions(run: Run, grid: Grid) -> Iterator[str]:
    """A sentence for each cell and metric that the run describes otherwise than its config.

    Tables take the names of arms from cell.json, and the good direction of a metric from run.json.
    """
    store, metrics = Store(run.path), run.info.get("metrics", {})
    for name, right in json_round_trip(describe_metrics(grid)).items():
        stored = metrics.get(name, {}).get("better", right["better"])  # older runs have none
        if stored != right["better"]:
            yield f"{store.run_file} has {stored!r} as better {name}, and its config {right['better']!r}"
    for cell, right in describe_cells(grid):
        stored = store.read_cell(cell.digest) or {}
        wrong = [key for key in stored if key in right and key not in CHECKED_ELSEWHERE and stored[key] != right[key]]
        if wrong:
            path = store.cell_folder(cell.digest) / "cell.json"
            yield (
                f"{path} has {wrong[0]} {stored[wrong[0]]!r:.300}, and the config of the run {right[wrong[0]]!r:.300}. "
                "To correct the run, remove the file and run its config again: finished samples count"
            )


def draw_samples(run: Run, digests: Sequence[str], count: int, seed: int) -> dict[str, dict[str, Sample]]:
    """cell -> query -> stored sample, for `count` random samples, failed or not, all samples being equally likely."""
    store = Store(run.path)
    places = [(digest, sample["query"]) for digest in digests for sample in store.samples(digest)]
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    queries: dict[str, set[str]] = {}
    for digest, query in (places[i] for i in chosen):
        queries.setdefault(digest, set()).add(query)
    return {
        digest: {sample["query"]: sample for sample in store.samples(digest) if sample["query"] in own}
        for digest, own in queries.items()
    }


def recompute(grid: Grid, chosen: Mapping[str, Mapping[str, Sample]], progress: Progress) -> list[Recomputed]:
    """Computes samples again in a temporary run directory. Raises ICLError if the model cannot run here."""
    check_requirements(grid)
    missing = {cell.digest: set(chosen.get(cell.digest, ())) for cell in grid.cells}
    with TemporaryDirectory(prefix="icl-verify-", ignore_cleanup_errors=True) as folder:
        store = Store(Path(folder) / grid.config.name)
        write_cells(store, grid)
        state = RunState(missing=missing, total=sum(map(len, missing.values())))
        with RunSession(store, grid, Invocation(store)) as session:
            Runner(grid, store, state, progress, session).run()
        again = {digest: {sample["query"]: sample for sample in store.samples(digest)} for digest in chosen}
    cells = {cell.digest: cell for cell in grid.cells}
    return [
        Recomputed(cells[digest], sample, again[digest].get(query))
        for digest, samples in chosen.items()
        for query, sample in samples.items()
    ]


def wrong_queries(run: Run, grid: Grid, unfinished: bool = False) -> Iterator[str]:
    """A sentence for each cell whose samples are not those of the queries of its task.

    Args:
        run: The run directory.
        grid: The grid of its config.
        unfinished: Whether queries may be missing.

    Raises:
        StoreError: The data of a cell are not those of the config.
    """
    store = Store(run.path)
    state = load_run_state(store, grid)
    open_stopping(store, grid, may_write=False).restrict(state)
    for cell in grid.cells:
        where, queries = f"{describe_cell(cell.labels)}, seed {cell.seed}", {query.id for query in cell.task.queries}
        stored = {sample["query"] for sample in store.samples(cell.digest) if sample["seed"] == cell.seed}
        if other := stored - queries:
            yield f"{where}: {format_count(len(other), 'sample')} of queries that the task does not have"
        if (missing := state.missing[cell.digest] - stored) and not unfinished:
            verb = "is" if len(missing) == 1 else "are"
            yield f"{where}: {len(missing):,} of {format_count(len(queries), 'query', 'queries')} {verb} missing"


def scored_by_other_rules(run: Run, grid: Grid) -> list[str]:
    """The metrics that run.json gives another revision of their rules, which may be why stored scores differ."""
    stored = run.info.get("metrics", {})
    return [
        name
        for name, node in describe_metrics(grid).items()
        if isinstance(stored.get(name), dict) and stored[name].get("revision") != node.get("revision")
    ]


def wrong_scores(run: Run, grid: Grid) -> Iterator[str]:
    """A sentence for each stored sample whose scores are not those of its stored answer."""
    store = Store(run.path)
    for cell in grid.cells:
        examples: dict[str, Example] = {example.id: example for example in cell.task.queries}
        for sample in store.samples(cell.digest):
            example = examples.get(sample["query"])
            if sample.get("failed") or example is None:
                continue
            right = json_round_trip(stored_answer_scores(grid.metrics, sample, example))
            for name, value in right.items():
                stored = sample.get("scores", {}).get(name)
                if stored is None or abs(stored - value) > SCORE_TOLERANCE:
                    yield (
                        f"{describe_cell(cell.labels)}, query {sample['query']}, seed {cell.seed}: the stored {name} "
                        f"is {stored}, and the stored answer scores {value}"
                    )


def _answer(sample: Sample) -> Any:
    scores = sample.get("option_scores")
    return max(scores, key=scores.get) if scores else sample.get("output", "")


def _text(sample: Sample) -> str:
    return f"failed ({sample['failed'][:60]})" if sample.get("failed") else repr(str(_answer(sample))[:60])
