"""Divide a grid's missing samples among workers.

All missing samples are put in one sequence, by model, task and query, and the sequence is cut into parts of about equal
cost. So one worker has all arms, shots and seeds of a query. It prefills each of their prompts once and encodes each
image once. A model is loaded by few workers: a cut that is near the end of a model is moved there.

    model A: q1 q2 q3 q4 q5 | q6 q7      model B: q1 q2 q3 | q4 q5 q6 q7
    worker 1                | worker 2                     | worker 3
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.contexts.contexts import prompt_specs
from experiments.grid.grid import Cell, Grid

SAMPLE_COST = 1.0
"""Cost of a sample without its prompt, in lengths of a demonstration."""

MAX_MOVE = 0.1
"""A cut is moved to the end of a model by at most this part of a share. Loading a model takes longer than that."""


@dataclass(frozen=True)
class ShareBlock:
    """Samples of one model and task: all pairs of these cells and queries, less those that are finished."""

    cells: tuple[str, ...]
    queries: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def shares(
    grid: Grid,
    missing: Mapping[str, Collection[str]],
    count: int,
    blocks: Sequence[Mapping[str, Collection[str]]] = (),
) -> list[list[ShareBlock]]:
    """Divides missing samples into at most `count` shares, none of them empty.

    Args:
        grid: The cells.
        missing: Cell digest -> ids of queries.
        count: The largest number of shares.
        blocks: Blocks of work of comparisons that end when they are decided (`stop`). Each block is divided among all
            shares, so that a look needs the same part of each.
    """
    if not blocks:
        return [part for part in _divide(grid, missing, count) if part]
    parts: list[list[ShareBlock]] = [[] for _ in range(count)]
    for i, block in enumerate(blocks):
        of_block = {digest: set(queries) & set(block.get(digest, ())) for digest, queries in missing.items()}
        for k, part in enumerate(_divide(grid, of_block, count)):
            parts[(k + i) % count] += part  # a small block leaves other shares empty than the block before
    return [part for part in parts if part]


def _divide(grid: Grid, missing: Mapping[str, Collection[str]], count: int) -> list[list[ShareBlock]]:
    items = list(_ordered_queries(grid, missing))
    cuts = _cuts([(model, cost) for model, *_, cost in items], count)
    parts: list[dict[tuple[str, ...], list[str]]] = [{} for _ in range(count)]
    before = 0.0
    for _, cells, query, cost in items:
        parts[bisect_right(cuts, before + cost / 2)].setdefault(cells, []).append(query)
        before += cost
    return [[ShareBlock(cells, tuple(queries)) for cells, queries in part.items()] for part in parts]


def _cuts(costs: Sequence[tuple[int, float]], count: int) -> list[float]:
    """Where the sequence is cut into `count` shares, as sums of costs. costs: the model and the cost of each query."""
    starts: dict[int, float] = {}
    total = 0.0
    for model, cost in costs:
        starts.setdefault(model, total)
        total += cost
    share, cuts = total / count, list[float]()
    for i in range(1, count):
        nearest = min(starts.values(), key=lambda start: abs(start - i * share), default=0.0)
        cuts.append(nearest if abs(nearest - i * share) <= MAX_MOVE * share else i * share)
    return cuts


def _ordered_queries(
    grid: Grid, missing: Mapping[str, Collection[str]]
) -> Iterator[tuple[int, tuple[str, ...], str, float]]:
    """(model, cells of its model and task, query, cost), in the order of models and tasks in one process."""
    for number, model in enumerate(grid.models):
        for task in grid.tasks:
            cells = [c for c in grid.cells if c.model is model and c.task is task and missing[c.digest]]
            digests = tuple(cell.digest for cell in cells)
            costs = list(_query_costs(cells))
            for query in task.queries:
                cost = sum(of_cell for digest, of_cell in costs if query.id in missing[digest])
                if cost:
                    yield number, digests, query.id, cost


def _query_costs(cells: list[Cell]) -> Iterator[tuple[str, float]]:
    """(cell digest, cost of one query). The cost is the length of all branches' prompts, in demonstrations.

    Cells with equal prompts share the cost of the reference branch.
    """
    from decoding.arms.inspection import probe_branches

    by_shots: dict[int, list[Cell]] = {}
    for cell in cells:
        by_shots.setdefault(cell.shots, []).append(cell)
    for same in by_shots.values():
        for spec in prompt_specs(same):
            for cell in spec.cells:
                length = 1 + cell.num_demos
                logits = "logits" in cell.model.abilities
                branches = len(probe_branches(cell.decoding.strategy)) if logits else 1
                yield cell.digest, SAMPLE_COST + length * (branches - 1 + 1 / len(spec.cells))
