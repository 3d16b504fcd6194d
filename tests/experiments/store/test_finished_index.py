import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.store.run_state import FINISHED_FILE, RunState, load_run_state, write_cells
from experiments.store.store import SampleWriter, Store
from icl.types import Sample

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture
def grid(mapping: Mapping) -> Grid:
    """Two cells of six queries: 0 and 1 shots."""
    return expand(load_config(mapping(shots=None, grid={"shots": [0, 1]})))


@pytest.fixture
def store(tmp_path: Path, grid: Grid) -> Store:
    """A run directory in which the first cell has two finished queries and a failed one."""
    store = Store(tmp_path / "t")
    write_cells(store, grid)
    store.write_run({"cells": [cell.digest for cell in grid.cells]})
    first, second, third = _names(grid)[:3]
    _append(store, grid, first, second)
    _append(store, grid, third, failed="no image")
    load_run_state(store, grid)
    return store


def _names(grid: Grid) -> list[str]:
    return sorted(query.id for query in grid.cells[0].task.queries)


def _append(store: Store, grid: Grid, *queries: str, failed: str | None = None) -> None:
    digest = grid.cells[0].digest
    with SampleWriter(store) as writer:
        writer.append(digest, [Sample(cell=digest, query=query, seed=0, failed=failed) for query in queries])


def _from_lines(store: Store, grid: Grid) -> RunState:
    (store.folder / FINISHED_FILE).unlink(missing_ok=True)
    return load_run_state(store, grid)


def test_unchanged_cells_are_not_read_again(store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _from_lines(store, grid)
    monkeypatch.setattr(Store, "lines", lambda *_: pytest.fail("the lines were read"))
    state = load_run_state(store, grid)
    assert (state.missing, state.failed, state.present) == (expected.missing, expected.failed, 2)
    assert list(expected.failed[grid.cells[0].digest].values()) == ["no image"]


def test_a_new_sample_is_seen(store: Store, grid: Grid) -> None:
    _append(store, grid, _names(grid)[3])
    assert load_run_state(store, grid).present == 3


def test_an_edit_of_the_same_size_and_time_is_seen(store: Store, grid: Grid) -> None:
    (path,) = store.cell_folder(grid.cells[0].digest).glob("*.jsonl")
    before, first = path.stat(), _names(grid)[0]
    path.write_text(path.read_text().replace(f'"{first}"', f'"{first[:-1]}~"', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    state = load_run_state(store, grid)
    assert first in state.missing[grid.cells[0].digest]
    assert state.missing == _from_lines(store, grid).missing


def test_a_removed_file_makes_the_samples_missing(store: Store, grid: Grid) -> None:
    (store.cell_folder(grid.cells[0].digest) / "0.jsonl").unlink()
    state = load_run_state(store, grid)
    assert state.present == 0
    assert state.missing == _from_lines(store, grid).missing


@pytest.mark.parametrize("content", [None, "{"])
def test_a_lost_description_is_seen_each_time(store: Store, grid: Grid, content: str | None) -> None:
    file = store.cell_folder(grid.cells[0].digest) / "cell.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    for _ in range(2):
        state = load_run_state(store, grid)
        assert (state.lost, state.present) == ([grid.cells[0].digest], 2)


def test_damaged_lines_are_reported_each_time(store: Store, grid: Grid) -> None:
    path = store.cell_folder(grid.cells[0].digest) / "0.jsonl"
    path.write_text(path.read_text() + "{}\n")
    damaged = load_run_state(store, grid).damaged
    assert damaged == [f"line 4 of {path}"]
    assert load_run_state(store, grid).damaged == damaged


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": {"finished": 7}}',
        '{"a": {"data": {}, "failed": []}}',
    ],
)
def test_a_damaged_index_is_made_again(store: Store, grid: Grid, content: str) -> None:
    expected = _from_lines(store, grid)
    index = (store.folder / FINISHED_FILE).read_text()
    (store.folder / FINISHED_FILE).write_text(content)
    assert load_run_state(store, grid) == expected
    assert json.loads((store.folder / FINISHED_FILE).read_text()) == json.loads(index)


def test_the_index_of_another_version_is_not_used(store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.store.run_state.__version__", "0.0")
    read: list[str] = []
    lines = Store.lines
    monkeypatch.setattr(Store, "lines", lambda self, digest, *more: read.append(digest) or lines(self, digest, *more))
    load_run_state(store, grid)
    assert read == [cell.digest for cell in grid.cells]


def test_a_share_of_the_cells_keeps_the_entries_of_the_others(store: Store, grid: Grid) -> None:
    from dataclasses import replace

    _append(store, grid, _names(grid)[4])
    load_run_state(store, replace(grid, cells=grid.cells[:1]), grid)
    assert set(json.loads((store.folder / FINISHED_FILE).read_text())) == {cell.digest for cell in grid.cells}


def test_a_folder_that_cannot_be_written_is_read(store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    expected = _from_lines(store, grid)
    (store.folder / FINISHED_FILE).unlink()
    monkeypatch.setattr(os, "fsync", refuse)
    assert load_run_state(store, grid) == expected
