"""Compute changed metrics on stored answers. No answer is computed again, and no verdict of a judge is lost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.grid.grid import Cell, Grid
from experiments.running.recorder import baselines, scores
from experiments.store.finished_index import read_cell_states
from experiments.store.invocations import Invocation
from experiments.store.run_state import describe_metrics, json_round_trip
from experiments.store.store import Store
from icl.metrics.machinery.judge import Judge
from icl.option_listing import OPTION_TEXTS
from icl.text.json_text import canonical_digest
from icl.types import Demo, Example, Generation

if TYPE_CHECKING:
    from icl.metrics.base import Metric


def rescore(store: Store, grid: Grid, invocation: Invocation) -> int:
    """Computes the config's metrics for finished samples that have others. Returns the number of these samples."""
    metrics = describe_metrics(grid)
    digest = canonical_digest(json_round_trip(metrics))
    states = read_cell_states(store, [cell.digest for cell in grid.cells])
    of_run = {"metrics": (store.read_run() or {}).get("metrics", metrics)}  # for a cell without a description
    count = 0
    for cell in grid.cells:
        if states[cell.digest].metrics == digest:
            continue
        description = store.read_intact_cell(cell.digest) or of_run
        if description.get("metrics") == metrics:
            continue
        before = description.get("metrics", {})
        judged = [
            name
            for name, metric in grid.metrics.items()
            if isinstance(metric, Judge) and before.get(name) == metrics[name]
        ]
        samples = list(_rescored(store, cell, grid.metrics, judged, invocation))
        if samples:
            store.replace_samples(cell.digest, samples)
        store.write_cell(cell.digest, {**description, "metrics": metrics})
        count += len(samples)
    return count


def _rescored(
    store: Store, cell: Cell, metrics: "Mapping[str, Metric]", judged: Sequence[str], invocation: Invocation
) -> Iterator[dict[str, Any]]:
    """The samples with new scores. judged: unchanged judges, whose verdicts another machine may have stored."""
    examples: dict[str, Example] = {example.id: example for example in cell.task.queries}
    for sample in store.samples(cell.digest):
        example = examples.get(sample["query"])
        if sample.get("failed") or example is None:
            yield sample
        else:
            verdicts = {name: sample["scores"][name] for name in judged if name in sample.get("scores", {})}
            yield sample | {
                "scores": stored_answer_scores(metrics, sample, example) | verdicts,
                "baselines": baselines(metrics, _demos(sample), as_stored(sample, example)),
                "scores_invocation": invocation.id,
            }


def stored_answer_scores(
    metrics: "Mapping[str, Metric]", sample: Mapping[str, Any], example: Example
) -> dict[str, float]:
    """The scores of a stored answer by metrics that may have changed."""
    answer = Generation(
        sample.get("output", ""),
        finish=sample.get("finish", "stop"),
        thinking=sample.get("thinking", ""),
        trace=sample.get("trace", {}),
        option_scores=sample.get("option_scores", {}),
    )
    return scores(metrics, answer, as_stored(sample, example))


def as_stored(sample: Mapping[str, Any], example: Example) -> Example:
    """The example with the answers and options of the sample, which may be letters or have other names."""
    stored = sample.get("meta", {})
    texts = {OPTION_TEXTS: stored[OPTION_TEXTS]} if OPTION_TEXTS in stored else {}
    return replace(
        example,
        answers=tuple(sample.get("gold", ())),
        options=tuple(sample.get("options", ())),
        meta={**example.meta, **texts},
    )


def _demos(sample: Mapping[str, Any]) -> list[Demo]:
    """The demonstrations with the fields that baselines read."""
    demos = zip(sample.get("demos", ()), sample.get("ranks", ()), strict=True)
    return [Demo(Example(name, (), "", (answer,)), score, rank) for (name, score, answer), rank in demos]
