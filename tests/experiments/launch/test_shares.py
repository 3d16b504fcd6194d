from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.launch.shares import _weights, shares

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture
def grid(mapping: Mapping) -> Grid:
    """Two tasks, two models, two seeds."""
    config = mapping(seeds=[0, 1])
    del config["model"], config["shots"]
    shown = config.pop("task")
    tasks = [{**shown, "queries": count} for count in (10, 6)]
    return expand(
        load_config({**config, "grid": {"task": tasks, "model": ["fake-copy", "fake-vote"], "shots": [0, 4]}})
    )


def missing(grid: Grid) -> dict[str, set[str]]:
    return {cell.digest: {query.id for query in cell.task.queries} for cell in grid.cells}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_missing_sample_is_in_one_share(grid: Grid, count: int) -> None:
    wanted = missing(grid)
    wanted[grid.cells[0].digest] = {"q-0003"}  # the rest of it is there already
    found = shares(grid, wanted, count)
    given = Counter(
        (cell, query)
        for share in found
        for block in share
        for cell in block.cells
        for query in block.queries
        if query in wanted[cell]
    )
    assert given == Counter((cell, query) for cell, queries in wanted.items() for query in queries)
    assert 1 <= len(found) <= count
    assert all(block.queries for share in found for block in share)


def test_a_query_is_in_one_share_with_all_arms_shots_and_seeds_of_its_model_and_task(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    homes: dict[tuple[int, int, str], set[int]] = {}
    for launch_folder, share in enumerate(shares(grid, missing(grid), 3)):
        for block in share:
            cells = [by_digest[digest] for digest in block.cells]
            assert len({(id(cell.model), id(cell.task)) for cell in cells}) == 1
            assert len(cells) == 4, "both shots and both seeds"
            for query in block.queries:
                homes.setdefault((id(cells[0].model), id(cells[0].task), query), set()).add(launch_folder)
    assert len(homes) == 2 * 16
    assert all(len(places) == 1 for places in homes.values())


def test_models_are_loaded_no_more_often_than_there_are_cuts(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    for count in (1, 2, 3, 5):
        loads = [
            {by_digest[block.cells[0]].model.digest for block in share} for share in shares(grid, missing(grid), count)
        ]
        assert sum(map(len, loads)) <= len(grid.models) + count - 1
    halves = [{by_digest[b.cells[0]].model.digest for b in share} for share in shares(grid, missing(grid), 2)]
    assert [len(models) for models in halves] == [1, 1]


def test_shares_weigh_alike_and_longer_prompts_weigh_more(grid: Grid) -> None:
    task, model = grid.tasks[0], grid.models[0]
    wanted: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    for cell in grid.cells:
        if cell.task is task and cell.model is model:  # the first five queries with 4 shots, the other five with none
            wanted[cell.digest] = {query.id for query in (task.queries[:5] if cell.shots else task.queries[5:])}
    (first,), (second,) = shares(grid, wanted, 2)
    assert first.queries + second.queries == tuple(query.id for query in task.queries)
    assert len(first.queries) == 3, "a query of 6 lengths with 4 shots, of 2 without: 3 x 6 of 40 are nearest half"


@pytest.mark.parametrize("reads", [True, False])
def test_branches_weigh_where_a_model_reads_them(mapping: Mapping, toy: str, reads: bool) -> None:
    """With 4 shots a prompt is 5, of which both arms share one; the contrast has a second; a sample itself is 1."""
    made = expand(
        load_config(mapping(model=toy if reads else "fake-copy", shots=4, grid={"decoding": ["greedy", "vcd"]}))
    )
    greedy, contrast = (cell.digest for cell in made.cells)
    assert dict(_weights(list(made.cells))) == {greedy: 3.5, contrast: 8.5 if reads else 3.5}


def test_no_worker_is_without_work(grid: Grid) -> None:
    wanted: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    wanted[grid.cells[0].digest] = {"q-0001", "q-0002"}
    assert [[b.queries for b in share] for share in shares(grid, wanted, 8)] == [[("q-0001",)], [("q-0002",)]]
