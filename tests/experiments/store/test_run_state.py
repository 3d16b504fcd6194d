import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.feasibility import data_digests
from experiments.grid.grid import Grid, expand
from experiments.store.run_state import (
    RunState,
    describe_metrics,
    dropped_cells_note,
    json_round_trip,
    load_run_state,
    next_free_folder,
    write_cells,
)
from experiments.store.store import SampleWriter, Store
from icl.errors import StoreError
from icl.types import Sample

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture
def grid(mapping: Mapping) -> Grid:
    """Two cells of six queries: 0 and 1 shots."""
    return expand(load_config(mapping(shots=None, grid={"shots": [0, 1]})))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "t")


def write(store: Store, digest: str, *queries: str, failed: str | None = None) -> None:
    with SampleWriter(store) as writer:
        writer.append(digest, [Sample(cell=digest, query=query, seed=0, failed=failed) for query in queries])


def write_run(store: Store, grid: Grid) -> None:
    write_cells(store, grid)
    store.write_run({"cells": [cell.digest for cell in grid.cells]})


def test_the_state_of_an_empty_folder_is_that_everything_is_missing(store: Store, grid: Grid) -> None:
    state = load_run_state(store, grid)
    queries = {query.id for query in grid.cells[0].task.queries}
    assert state.missing == {cell.digest: queries for cell in grid.cells}
    assert (state.present, state.total, state.left, state.cells_done) == (0, 12, 12, 0)
    assert state.failed == {cell.digest: {} for cell in grid.cells}
    assert RunState() == RunState({}, {}, 0, 0, [])


def test_finished_failed_and_damaged_samples_are_counted_separately(store: Store, grid: Grid) -> None:
    one, other = (cell.digest for cell in grid.cells)
    write_run(store, grid)
    names = sorted(query.id for query in grid.cells[0].task.queries)
    write(store, one, *names)
    write(store, other, *names[:2])
    write(store, other, names[2], failed="no image")
    write(store, other, "of no query")
    (store.cell_folder(other) / "0.jsonl").open("a").write("damaged\n")
    state = load_run_state(store, grid)
    assert state.missing == {one: set(), other: set(names[2:])}
    assert state.failed == {one: {}, other: {names[2]: "no image"}}
    assert (state.present, state.total, state.left, state.cells_done) == (8, 12, 4, 1)
    assert state.damaged == [f"line 5 of {store.cell_folder(other) / '0.jsonl'}"]


@pytest.mark.parametrize("description", [None, "", "{", "\x00" * 80, '{"format": 2, "seed": "x"}'])
def test_samples_count_if_the_description_of_their_cell_is_lost(
    store: Store, grid: Grid, description: str | None
) -> None:
    (digest, _) = (cell.digest for cell in grid.cells)
    write(store, digest, *(query.id for query in grid.cells[0].task.queries))
    if description is not None:
        (store.cell_folder(digest) / "cell.json").write_text(description)
        with pytest.raises(StoreError, match=r"cell\.json is damaged.* Run the same command again"):
            store.read_cell(digest)
    state = load_run_state(store, grid)
    assert (state.present, state.lost) == (6, [digest])
    write_cells(store, grid)
    assert load_run_state(store, grid).lost == []


def test_a_lost_description_of_a_cell_whose_samples_all_failed_is_written_again(store: Store, grid: Grid) -> None:
    (digest, _) = (cell.digest for cell in grid.cells)
    write(store, digest, *(query.id for query in grid.cells[0].task.queries), failed="no image")
    assert load_run_state(store, grid).lost == [digest]


def test_a_cell_without_samples_does_not_make_a_folder_that_of_the_config(mapping: Mapping, store: Store) -> None:
    first = expand(load_config(mapping(grid={"shots": [2, 3]})))
    write_run(store, first)
    write(store, next(cell.digest for cell in first.cells if cell.labels["shots"] == 3), "q-0000")
    with pytest.raises(StoreError, match="shots 3, now 2"):
        load_run_state(store, expand(load_config(mapping(shots=2))))


def test_a_cell_is_written_once_and_again_if_its_description_changes(store: Store, grid: Grid) -> None:
    write_cells(store, grid)
    files = [store.cell_folder(cell.digest) / "cell.json" for cell in grid.cells]
    first = [file.stat().st_ino for file in files]
    write_cells(store, grid)
    assert [file.stat().st_ino for file in files] == first
    cell = store.read_cell(grid.cells[0].digest) or {}
    assert cell["labels"]["shots"] == 0
    assert cell["data"] == data_digests(grid.cells[0].task)
    assert cell["metrics"] == describe_metrics(grid)
    assert cell["model_digest"] == grid.cells[0].model.digest
    assert cell["decoding_digest"] == grid.cells[0].decoding.digest
    assert (cell["control"], cell["controls"]) == (False, [])
    store.write_cell(grid.cells[0].digest, {**cell, "labels": {"shots": 7}})
    write_cells(store, grid)
    assert store.read_cell(grid.cells[0].digest) == cell
    assert files[1].stat().st_ino == first[1]


@pytest.mark.parametrize(("key", "what"), [("pool", "demonstrations"), ("queries", "queries")])
def test_other_data_of_a_finished_cell_are_refused(store: Store, grid: Grid, key: str, what: str) -> None:
    write_run(store, grid)
    digest = grid.cells[0].digest
    cell = store.read_cell(digest) or {}
    now = cell["data"][key]
    store.write_cell(digest, {**cell, "data": {**cell["data"], key: "0123456789"}})
    says = rf"was made with other {what} of task 'shapes' \({key} digest 0123… now {now[:4]}…\)\. Use another name"
    with pytest.raises(StoreError, match=says):
        load_run_state(store, grid)
    store.write_cell(digest, {**cell, "data": {}})
    assert load_run_state(store, grid).present == 0


def other_runs(mapping: Mapping) -> Iterator[tuple[dict[str, Any], str]]:
    yield mapping(shots=3), r"shots 2, now 3"
    yield mapping(shots=3, model="fake-vote"), r"model fake-copy, now fake-vote; shots 2, now 3"
    yield mapping(stop_strings=["\n"]), r"stop_strings \['\\n'\]"
    yield mapping(task={**mapping()["task"], "queries": 5}), r"task shapes with other parameters or code"


def test_a_folder_of_another_experiment_is_refused_with_the_difference(mapping: Mapping, store: Store) -> None:
    first = expand(load_config(mapping()))
    write_run(store, first)
    for keys, says in other_runs(mapping):
        other = expand(load_config(keys))
        load_run_state(store, other)  # no sample of another experiment is there yet
        write(store, first.cells[0].digest, "q")
        with pytest.raises(StoreError, match=rf"was made with another config \({says}\)\. Use another name, or --fork"):
            load_run_state(store, other)
        (store.cell_folder(first.cells[0].digest) / "0.jsonl").unlink()


def test_the_order_of_keys_makes_no_difference(mapping: Mapping, store: Store) -> None:
    grid = expand(load_config(mapping()))
    write_run(store, grid)
    cell = store.read_cell(grid.cells[0].digest) or {}
    task = dict(reversed(cell["task"].items()))
    assert list(task) != list(cell["task"])
    store.write_cell("another", {**cell, "task": task})
    store.write_run({"cells": ["another"]})
    write(store, "another", "q")
    with pytest.raises(StoreError, match="no combination is the same"):
        load_run_state(store, grid)


def test_a_model_of_other_weights_is_named(mapping: Mapping, store: Store) -> None:
    grid = expand(load_config(mapping()))
    write_run(store, grid)
    cell = store.read_cell(grid.cells[0].digest) or {}
    store.write_cell("another", {**cell, "model_digest": "old"})
    write(store, "another", "q")
    store.write_run({"cells": ["another"]})
    with pytest.raises(StoreError, match="the model's weights or settings have changed"):
        load_run_state(store, grid)
    store.write_cell("another", cell)
    with pytest.raises(StoreError, match="no combination is the same"):
        load_run_state(store, grid)


def test_a_run_may_share_some_cells_only(mapping: Mapping, store: Store, grid: Grid) -> None:
    write_run(store, grid)
    write(store, grid.cells[0].digest, "q-0000")
    larger = expand(load_config(mapping(shots=None, grid={"shots": [0, 5]})))
    assert load_run_state(store, larger).present == 1
    share = expand(load_config(mapping(shots=5)))
    assert load_run_state(store, share, larger).total == 6, "a worker's share of a run"
    with pytest.raises(StoreError, match="was made with another config"):
        load_run_state(store, share)


def test_a_folder_of_other_files_is_refused(store: Store, grid: Grid) -> None:
    store.folder.mkdir()
    (store.folder / ".lock").touch()
    (store.folder / "cells").mkdir()
    assert load_run_state(store, grid).total == 12
    (store.folder / "notes.txt").touch()
    with pytest.raises(StoreError, match=r"is not a run directory and is not empty\. Use another name\."):
        load_run_state(store, grid)
    write_cells(store, grid)  # a run that was killed before it wrote run.json
    assert load_run_state(store, grid).total == 12


def test_cells_that_a_config_no_longer_has_are_noted(mapping: Mapping, store: Store) -> None:
    axes = {"shots": [0, 1], "retriever": ["random", "balanced"]}
    every = expand(load_config(mapping(shots=None, grid=axes)))
    write_run(store, every)
    for cell in every.cells:
        write(store, cell.digest, "q-0000")
    assert dropped_cells_note(store) == ""

    def note(keep: Callable[[Any], bool]) -> str:
        store.write_run({"cells": [cell.digest for cell in every.cells if keep(cell.labels)]})
        return dropped_cells_note(store)

    both = note(lambda labels: labels["shots"] == 0)
    assert both.startswith(f"2 cells of {store.folder} with samples are not in this grid any more (shots 1): stored")
    assert "Put their values back into the grid to see them;" in both, "retrievers do not matter without shots"
    one = note(lambda labels: labels["retriever"] != "balanced")
    assert one.startswith(f"1 cell of {store.folder} with samples is not in this grid any more (retriever balanced): ")
    assert "Put its values back into the grid to see it;" in one
    for path in store.folder.glob("cells/*/0.jsonl"):
        path.write_bytes(b"")
    assert dropped_cells_note(store) == ""


def test_the_next_free_name_has_the_next_number(tmp_path: Path) -> None:
    assert next_free_folder(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    assert next_free_folder(tmp_path / "a") == tmp_path / "a-2"
    (tmp_path / "a-2").mkdir()
    assert next_free_folder(tmp_path / "a") == tmp_path / "a-3"


def test_metrics_are_described_with_what_their_classes_say(mapping: Mapping, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Own:\n    better = 'lower'\n    accuracy = True\n"
        "    def score(self, generation, example):\n        return 1.0\n"
    )
    grid = expand(load_config(mapping(metrics=["strict", "f1", f"{tmp_path / 'own.py'}:Own"])))
    nodes = describe_metrics(grid)
    assert (nodes["strict"]["name"], nodes["strict"]["better"]) == ("strict", "higher")
    assert "accuracy" not in nodes["strict"], "the name of a built-in metric implies it"
    assert "run_level" not in nodes["strict"]
    assert nodes["f1"]["run_level"] is True
    assert (nodes["Own"]["accuracy"], nodes["Own"]["better"], "run_level" in nodes["Own"]) == (True, "lower", False)


def test_a_value_is_compared_as_json_reads_it() -> None:
    assert json_round_trip({"a": (1, 2), 3: Path("x")}) == {"a": [1, 2], "3": "PosixPath('x')"}
    assert json.dumps(json_round_trip({"a": None})) == '{"a": null}'
