"""Shards: every sample in one of them, and processes that are started by hand with `icl run --shard i/n`."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import files, lines, until

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.launch.base import Launch
from experiments.launch.worker import run_shard, shard
from experiments.results.loaded_run import load_run
from icl.errors import StoreError

Go = Callable[..., Any]


@pytest.fixture
def grid(mapping: Callable[..., dict[str, Any]]) -> Grid:
    """Two tasks, two models, two seeds."""
    config = mapping(seeds=[0, 1])
    del config["model"], config["shots"]
    task = config.pop("task")
    tasks = [{**task, "queries": count} for count in (10, 6)]
    return expand(
        load_config({**config, "grid": {"task": tasks, "model": ["fake-copy", "fake-vote"], "shots": [0, 4]}})
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_sample_is_in_one_shard(grid: Grid, count: int) -> None:
    shards = [shard(grid, i + 1, count) for i in range(count)]
    counts = Counter((cell, query) for part in shards for cell, queries in part.items() for query in queries)
    assert counts == Counter((cell.digest, query.id) for cell in grid.cells for query in cell.task.queries)


def test_a_query_is_in_one_shard_with_all_arms_shots_and_seeds_of_its_model_and_task(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    for i in range(3):
        cells_of: dict[tuple[int, int, str], int] = Counter(
            (id(by_digest[digest].model), id(by_digest[digest].task), query)
            for digest, queries in shard(grid, i + 1, 3).items()
            for query in queries
        )
        assert set(cells_of.values()) == {4}, "both shots and both seeds"


def test_models_are_loaded_no_more_often_than_there_are_cuts(grid: Grid) -> None:
    by_digest = {cell.digest: cell for cell in grid.cells}
    for count in (1, 2, 3, 5):
        loads = [{by_digest[digest].model.digest for digest in shard(grid, i + 1, count)} for i in range(count)]
        assert sum(map(len, loads)) <= len(grid.models) + count - 1
    assert [len({by_digest[digest].model.digest for digest in shard(grid, i, 2)}) for i in (1, 2)] == [1, 1]


def test_shards_have_equal_parts_of_any_first_queries(grid: Grid) -> None:
    """So a run whose first queries are finished is still divided evenly."""
    task, model = grid.tasks[0], grid.models[0]
    first = {query.id for query in task.queries[:5]}
    (cell, *_) = [cell for cell in grid.cells if cell.task is task and cell.model is model]
    parts = [len(shard(grid, i + 1, 4).get(cell.digest, set()) & first) for i in range(4)]
    assert sum(parts) == 5
    assert sorted(parts)[-2:] == [2, 3], "two of four shards have this model"


@pytest.mark.parametrize("count", [1, 3])
def test_shards_that_are_started_by_hand_write_what_one_process_writes(
    go: Go, grid_file: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = go("whole")
    monkeypatch.setattr("experiments.launch.slurm.find_spec", lambda name: None)  # no launcher is needed
    for index in range(count, 0, -1):
        assert run_shard(load_config(grid_file, ["launcher=slurm"]), tmp_path / "parts", index, count) == ""
    folder = tmp_path / "parts" / "t"
    assert lines(folder) == 180
    done, progress = go("parts")
    assert (done.present, done.computed, done.missing, progress.notes) == (180, 0, 0, [])
    assert files(folder) == files(whole.folder)
    assert Launch.read(folder) is None
    (session,) = load_run(folder).info["sessions"]
    assert (session["state"], [worker["state"] for worker in session["workers"]]) == ("finished", ["finished"] * count)


def test_a_shard_that_is_killed_is_resumed_and_the_folder_is_not_shared_with_others(
    go: Go, tmp_path: Path, icl_process: Callable[..., Any]
) -> None:
    whole, _ = go("whole")
    arguments = ("run", "grid.yaml", "--runs", "parts", "--shard")
    processes = [icl_process(*arguments, f"{i}/2", slow=0.05) for i in (1, 2)]
    folder = tmp_path / "parts" / "t"
    until(lambda: lines(folder) >= 20 and len(list(folder.glob("launch/*-?.json"))) == 2)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match=r"by 2 workers of --shard i/2 since .* or use another name\."):
        go("parts")
    for more, sentence in (("1/3", "is being run by 2 workers of --shard i/2"), ("1/2", "another process is the w")):
        refused = icl_process(*arguments, more)
        assert sentence in refused.communicate(timeout=60)[1]
        assert refused.returncode == 2
    before = lines(folder)
    for process, by in zip(processes, (signal.SIGKILL, signal.SIGTERM), strict=True):
        os.kill(process.pid, by)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 128 + signal.SIGTERM]
    again = icl_process(*arguments, "1/2")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert out.startswith("shard 1/2 is finished.")
    assert before <= lines(folder) < 180
    done, progress = go("parts")
    assert (done.missing, progress.notes) == (0, [])
    assert [sorted(data.splitlines()) for _, data in sorted(files(folder).items())] == [
        sorted(data.splitlines()) for _, data in sorted(files(whole.folder).items())
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("0/2",), "--shard must be a part and the number of parts, from 1/4 to 4/4, not '0/2'."),
        (("3/2",), "not '3/2'."),
        (("two",), "not 'two'."),
        (("1/2", "--limit", "3"), "Leave out --fork and --limit."),
    ],
)
def test_an_invalid_shard_is_a_sentence(
    options: tuple[str, ...], sentence: str, grid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.cli.main import main

    assert main(["run", str(grid_file), "--shard", *options]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
