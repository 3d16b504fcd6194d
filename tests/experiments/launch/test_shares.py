from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.launch.shares import _query_costs, shares

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture
def grid(mapping: Mapping) -> Grid:
    """Two tasks, two models, two seeds."""
    config = mapping(seeds=[0, 1])
    del config["model"], config["shots"]
    task = config.pop("task")
    tasks = [{**task, "queries": count} for count in (10, 6)]
    return expand(
        load_config({**config, "grid": {"task": tasks, "model": ["fake-copy", "fake-vote"], "shots": [0, 4]}})
    )


def missing(grid: Grid) -> dict[str, set[str]]:
    return {cell.digest: {query.id for query in cell.task.queries} for cell in grid.cells}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_missing_sample_is_in_one_share(grid: Grid, count: int) -> None:
    missing_ids = missing(grid)
    missing_ids[grid.cells[0].digest] = {"q-0003"}  # the rest is finished
    parts = shares(grid, missing_ids, count)
    counts = Counter(
        (cell, query)
        for share in parts
        for block in share
        for cell in block.cells
        for query in block.queries
        if query in missing_ids[cell]
    )
    assert counts == Counter((cell, query) for cell, queries in missing_ids.items() for query in queries)
    assert 1 <= len(parts) <= count
    assert all(block.queries for share in parts for block in share)


def test_a_query_is_in_one_share_with_all_arms_shots_and_seeds_of_its_model_and_task(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    shares_of: dict[tuple[int, int, str], set[int]] = {}
    for number, share in enumerate(shares(grid, missing(grid), 3)):
        for block in share:
            cells = [by_digest[digest] for digest in block.cells]
            assert len({(id(cell.model), id(cell.task)) for cell in cells}) == 1
            assert len(cells) == 4, "both shots and both seeds"
            for query in block.queries:
                shares_of.setdefault((id(cells[0].model), id(cells[0].task), query), set()).add(number)
    assert len(shares_of) == 2 * 16
    assert all(len(numbers) == 1 for numbers in shares_of.values())


def test_models_are_loaded_no_more_often_than_there_are_cuts(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    for count in (1, 2, 3, 5):
        loads = [
            {by_digest[block.cells[0]].model.digest for block in share} for share in shares(grid, missing(grid), count)
        ]
        assert sum(map(len, loads)) <= len(grid.models) + count - 1
    halves = [{by_digest[b.cells[0]].model.digest for b in share} for share in shares(grid, missing(grid), 2)]
    assert [len(models) for models in halves] == [1, 1]


def test_a_cut_near_the_end_of_a_model_is_moved_there(grid: Grid) -> None:
    """A worker would otherwise load a second model for a few queries."""
    missing_ids, by_digest = missing(grid), {cell.digest: cell for cell in grid.cells}
    for cell in grid.cells:
        if cell.model is grid.models[0] and cell.task is grid.tasks[0]:  # the first model has two queries less
            missing_ids[cell.digest] = {query.id for query in cell.task.queries[2:]}
    for count, sizes in ((2, [14, 16]), (3, [10, 10, 10])):
        parts = shares(grid, missing_ids, count)
        assert [sum(len(block.queries) for block in share) for share in parts] == sizes
    loads = [{by_digest[b.cells[0]].model.digest for b in share} for share in shares(grid, missing_ids, 2)]
    assert [len(models) for models in loads] == [1, 1]


def test_shares_cost_about_the_same_and_longer_prompts_cost_more(grid: Grid) -> None:
    task, model = grid.tasks[0], grid.models[0]
    missing_ids: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    for cell in grid.cells:
        if cell.task is task and cell.model is model:  # the first five queries with 4 shots, the other five with none
            missing_ids[cell.digest] = {query.id for query in (task.queries[:5] if cell.shots else task.queries[5:])}
    (first,), (second,) = shares(grid, missing_ids, 2)
    assert first.queries + second.queries == tuple(query.id for query in task.queries)
    assert len(first.queries) == 3, "a query of 6 lengths with 4 shots, of 2 without: 3 x 6 of 40 are nearest half"


@pytest.mark.parametrize("reads", [True, False])
def test_branches_cost_only_with_models_that_read_them(mapping: Mapping, toy: str, reads: bool) -> None:
    """With 4 shots a prompt is 5, of which both arms share one; the contrast has a second; a sample itself is 1."""
    grid = expand(
        load_config(mapping(model=toy if reads else "fake-copy", shots=4, grid={"decoding": ["greedy", "vcd"]}))
    )
    greedy, contrast = (cell.digest for cell in grid.cells)
    assert dict(_query_costs(list(grid.cells))) == {greedy: 3.5, contrast: 8.5 if reads else 3.5}


def test_no_worker_is_without_work(grid: Grid) -> None:
    missing_ids: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    missing_ids[grid.cells[0].digest] = {"q-0001", "q-0002"}
    assert [[b.queries for b in share] for share in shares(grid, missing_ids, 8)] == [[("q-0001",)], [("q-0002",)]]
