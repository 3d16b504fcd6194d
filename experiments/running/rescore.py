"""New metrics on old answers: a changed `metrics` computes scores and baselines anew from what is stored, no answer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.grid.grid import Cell, Grid
from experiments.running.recorder import baselines, scores
from experiments.store.run_state import describe_metrics
from experiments.store.store import Store
from icl.types import Demo, Example, Generation

if TYPE_CHECKING:
    from icl.metrics.base import Metric


def rescore(store: Store, grid: Grid) -> int:
    """Brings the scores of finished samples up to the config's metrics. How many were scored anew."""
    told = describe_metrics(grid)
    count = 0
    for cell in grid.cells:
        known = store.read_cell(cell.digest)
        if known is None or known.get("metrics") == told:
            continue
        samples = list(_rescored(store, cell, grid.metrics))
        if samples:
            store.replace_samples(cell.digest, samples)
        store.write_cell(cell.digest, {**known, "metrics": told})
        count += len(samples)
    return count


def _rescored(store: Store, cell: Cell, metrics: "Mapping[str, Metric]") -> Iterator[dict[str, Any]]:
    examples: dict[str, Example] = {example.id: example for example in cell.task.queries}
    for sample in store.samples(cell.digest):
        example = examples.get(sample["query"])
        if sample.get("failed") or example is None:
            yield sample
        else:
            said = Generation(
                sample.get("output", ""),
                finish=sample.get("finish", "stop"),
                trace=sample.get("trace", {}),
                option_scores=sample.get("option_scores", {}),
            )
            gold, options = tuple(sample.get("gold", ())), tuple(sample.get("options", ()))
            judged = replace(example, answers=gold, options=options)  # as they were when it was asked: perhaps renamed
            told = {"scores": scores(metrics, said, judged), "baselines": baselines(metrics, _demos(sample), judged)}
            yield sample | told


def _demos(sample: Mapping[str, Any]) -> list[Demo]:
    """The demonstrations, as far as a baseline reads them."""
    shown = zip(sample.get("demos", ()), sample.get("ranks", ()), strict=True)
    return [Demo(Example(name, (), "", (answer,)), score, rank) for (name, score, answer), rank in shown]
