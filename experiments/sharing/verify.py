"""Check a run directory against its card: digests, scores, and samples that are computed again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.grid import Cell, Grid, check_requirements, data_digests, expand
from experiments.results.loaded_run import Run
from experiments.running import Runner, RunSession, stored_answer_scores
from experiments.sharing.card import (
    DIGEST,
    SAMPLE_DIGITS,
    card_digest,
    cell_digest,
    describe_environment,
    make_card,
    sample_digests,
)
from experiments.stats import format_count
from experiments.stopping.stopping import open_stopping
from experiments.store import Invocation, Store, collect_environment, describe_damaged_lines
from experiments.store.run_state import (
    RunState,
    describe_cells,
    describe_metrics,
    json_round_trip,
    load_run_state,
    write_cells,
)
from experiments.terminal.progress import Progress
from icl import Example, StoreError
from icl.metrics.reading import folded_answers

TOLERANCE = 1e-6
"""The largest difference of a score or an end of an interval: two versions of numpy may round otherwise."""
MAX_NAMED = 5
"""The most samples of a cell that a message names."""
DERIVED = {
    "scores": "a score",
    "controls": "a verdict about controls",
    "config": "the config",
    "metrics": "the metrics",
    "metric": "the metric",
    "fixed": "the settings of all cells",
    "findings": "a sentence",
    "environments": "an environment",
    "seeds": "the seeds",
    "samples": "the number of samples",
    "failed": "the number of failed samples",
    "origin": "the origin",
    "unfinished": "the state",
    "labels": "the number of labels",
}
"""Parts of a card that follow from the run directory, in words."""
DAMAGED_REMEDY = "Remove the line, run the experiment again to compute its sample, and write the card again."

AGREEMENT = (
    "Expected: every prompt agrees. In float32, with the versions and the kind of device of the card, every answer "
    "agrees too, also sampled ones: an answer does not depend on its batch. In float16 or bfloat16, on another device, "
    "with other versions or with vLLM, sums are rounded in another order, and a few answers may differ. A served model "
    "promises nothing."
)


def problems_of_card(card: Mapping[str, Any], run: Run) -> Iterator[str]:
    """A sentence for each way in which the card does not describe the run directory. Needs no model and no data.

    A line that is not a sample is a problem too: all readers of a run ignore it.

    Args:
        card: The content of card.json.
        run: The run directory.
    """
    if card[DIGEST] != card_digest(card):
        yield f"the card was edited: its content has the digest {card_digest(card)[:12]}…, not {card[DIGEST][:12]}…"
    store = Store(run.path)
    cells = [str(digest) for digest in run.info.get("cells", [])]
    for digest in cells:
        if digest not in card["cells"]:
            yield f"the run has a cell that the card has not: {digest}"
    for digest, described in card["cells"].items():
        yield from _problems_of_cell(store, digest, described)
    fresh = make_card(run)
    for key, what in DERIVED.items():
        before, after = card.get(key), fresh.get(key)
        if key == "unfinished":  # a process that died on another machine may be called running here
            before, after = bool(before), bool(after)
        if (difference := _difference(before, after, key)) is not None:
            yield f"{what} of the card is not that of the samples: {difference}"


def environment_differences(card: Mapping[str, Any]) -> str:
    """What differs between this process and the environments of the card: 'torch 2.4 (the card 2.3)', or ''."""
    here = describe_environment(collect_environment())
    parts = []
    for name, version in here["versions"].items():
        others = {one["versions"].get(name) for one in card["environments"]} - {None, version}
        parts += [f"{name} {version} (the card {', '.join(sorted(others))})"] if others else []
    devices = {", ".join(one["devices"]) or "no GPU" for one in card["environments"]}
    device = ", ".join(here["devices"]) or "no GPU"
    return "; ".join(parts + ([f"{device} (the card {' and '.join(sorted(devices))})"] if devices != {device} else []))


def _problems_of_cell(store: Store, digest: str, described: Mapping[str, Any]) -> Iterator[str]:
    damaged: list[str] = []
    digests = sample_digests(store.samples(digest, damaged))
    if sentence := describe_damaged_lines(damaged, DAMAGED_REMEDY):
        yield sentence.rstrip(".")
    if cell_digest(digests) == described.get("sha256"):
        return
    where = f"{describe_cell(described.get('labels', {}))}, seed {described.get('seed')}"
    short = str(described.get("short", ""))
    before = [short[i : i + SAMPLE_DIGITS] for i in range(0, len(short), SAMPLE_DIGITS)]
    if len(before) != len(digests):
        yield f"{where}: the run has {format_count(len(digests), 'sample')}, and the card {len(before):,}"
        return
    edited = [query for (query, one), was in zip(digests.items(), before, strict=True) if one[:SAMPLE_DIGITS] != was]
    if not edited:
        yield f"{where}: the digest of its samples is not that of the card"
    names = ", ".join(edited[:MAX_NAMED]) + (f" and {len(edited) - MAX_NAMED:,} more" * (len(edited) > MAX_NAMED))
    if edited:
        yield f"{where}: {format_count(len(edited), 'sample')} changed since the card was written: {names}"


def _difference(card: Any, fresh: Any, where: str) -> str | None:
    """The first place where two values differ, numbers by more than `TOLERANCE`; None if there is none."""
    if isinstance(card, Mapping) and isinstance(fresh, Mapping):
        keys = list(dict.fromkeys([*card, *fresh]))
        return next((d for k in keys if (d := _difference(card.get(k), fresh.get(k), f"{where}.{k}"))), None)
    if _is_list(card) and _is_list(fresh) and len(card) == len(fresh):
        pairs = enumerate(zip(card, fresh, strict=True))
        return next((d for i, (a, b) in pairs if (d := _difference(a, b, f"{where}[{i}]{_arm(b)}"))), None)
    if isinstance(card, int | float) and isinstance(fresh, int | float) and abs(card - fresh) <= TOLERANCE:
        return None
    return None if card == fresh else f"{where} is {_short(card)} in the card, {_short(fresh)} in the run"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _arm(row: Any) -> str:
    """The arm that a row of scores or controls is about."""
    return f" ({describe_cell(row)})" if isinstance(row, Mapping) and describe_cell(row) else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


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
    """A sentence for each cell whose samples do not match the queries of its task.

    Args:
        run: The run directory.
        grid: The grid of its config.
        unfinished: Whether queries may be missing.

    Raises:
        StoreError: The data of a cell differ from the config's.
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
    """The metrics that run.json gives another revision of their rules or another reader: stored scores may differ."""
    stored = run.info.get("metrics", {})
    return [
        name
        for name, node in describe_metrics(grid).items()
        if isinstance(own := stored.get(name), dict)
        and any(own.get(key) != node.get(key) for key in ("revision", "reader"))
    ]


def wrong_scores(run: Run, grid: Grid) -> Iterator[str]:
    """A sentence for each stored sample whose scores, or whose unread metrics, do not match its stored answer."""
    store, has_flags = Store(run.path), not scored_by_other_rules(run, grid)
    for cell in grid.cells:
        examples: dict[str, Example] = {example.id: example for example in cell.task.queries}
        others = folded_answers(cell.task.queries)
        for sample in store.samples(cell.digest):
            example = examples.get(sample["query"])
            if sample.get("failed") or example is None:
                continue
            right, unread = stored_answer_scores(grid.metrics, sample, example, others)
            where = f"{describe_cell(cell.labels)}, query {sample['query']}, seed {cell.seed}"
            if has_flags and set(unread) != set(sample.get("unread", ())):
                flags = [", ".join(names) or "no metric" for names in (sample.get("unread", ()), unread)]
                yield f"{where}: the stored answer is marked unread for {flags[0]}, and it is for {flags[1]}"
            for name, value in json_round_trip(right).items():
                stored = sample.get("scores", {}).get(name)
                if stored is None or abs(stored - value) > TOLERANCE:
                    yield f"{where}: the stored {name} is {stored}, and the stored answer scores {value}"


def _answer(sample: Sample) -> Any:
    scores = sample.get("option_scores")
    return max(scores, key=scores.get) if scores else sample.get("output", "")


def _text(sample: Sample) -> str:
    return f"failed ({sample['failed'][:60]})" if sample.get("failed") else repr(str(_answer(sample))[:60])
