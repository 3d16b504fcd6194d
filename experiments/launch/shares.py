"""A grid's missing samples in shares, so that what is shared stays together.

All work stands in one line: model by model, task by task, query by query, a query with all cells that miss it. The line
is cut into pieces of like weight. So all arms, shots and seeds of a query are with one worker, which prefills each of
their prompts once and encodes each image once; and models are loaded no more often than the cuts demand.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from experiments.contexts.contexts import prompt_specs
from experiments.grid.grid import Cell, Grid

OWN = 1.0
"""What a sample costs beside its prompt, in lengths of a demonstration."""


@dataclass(frozen=True)
class ShareBlock:
    """Samples of one model and task: those of these queries that the cells miss."""

    cells: tuple[str, ...]
    queries: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        return asdict(self)


def shares(grid: Grid, missing: Mapping[str, Collection[str]], count: int) -> list[list[ShareBlock]]:
    """At most `count` shares, none empty. missing: cell digest -> ids of queries."""
    line = list(_line(grid, missing))
    whole = sum(weight for *_, weight in line)
    found: list[dict[tuple[str, ...], list[str]]] = [{} for _ in range(count)]
    before = 0.0
    for cells, query, weight in line:
        middle = before + weight / 2
        found[min(count - 1, int(middle / whole * count))].setdefault(cells, []).append(query)
        before += weight
    return [[ShareBlock(cells, tuple(queries)) for cells, queries in share.items()] for share in found if share]


def _line(grid: Grid, missing: Mapping[str, Collection[str]]) -> Iterator[tuple[tuple[str, ...], str, float]]:
    """(cells of its model and task, query, weight), in the order in which one process would meet models and tasks."""
    for model in grid.models:
        for task in grid.tasks:
            cells = [c for c in grid.cells if c.model is model and c.task is task and missing[c.digest]]
            digests = tuple(cell.digest for cell in cells)
            parts = list(_weights(cells))
            for query in task.queries:
                weight = sum(of for digest, of in parts if query.id in missing[digest])
                if weight:
                    yield digests, query.id, weight


def _weights(cells: list[Cell]) -> Iterator[tuple[str, float]]:
    """What a query costs in each cell: its branches' prompts in demonstrations, the reference shared by its recipe."""
    from decoding.arms.inspection import probe_branches

    by_shots: dict[int, list[Cell]] = {}
    for cell in cells:
        by_shots.setdefault(cell.shots, []).append(cell)
    for same in by_shots.values():
        for recipe in prompt_specs(same):
            for cell in recipe.cells:
                length = 1 + cell.num_demos
                logits = "logits" in cell.model.abilities
                branches = len(probe_branches(cell.decoding.strategy)) if logits else 1
                yield cell.digest, OWN + length * (branches - 1 + 1 / len(recipe.cells))
