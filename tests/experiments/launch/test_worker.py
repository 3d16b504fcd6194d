"""Workers: their shards and states, and processes that are started by hand with `icl run --shard i/n`."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import files, lines, until

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.launch.base import (
    HEARTBEAT_TIMEOUT,
    Launch,
    is_alive,
    launch_folder,
    live_workers,
    worker_lock,
)
from experiments.launch.worker import WorkerSession, restrict_grid, run_shard, run_worker, shard
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from experiments.store.lock import write_lock
from experiments.store.run_state import write_cells
from experiments.store.store import Store
from icl.errors import StoreError


@pytest.fixture
def launched(grid_file: Path, tmp_path: Path) -> Callable[..., tuple[Launch, Grid]]:
    """A launch of two workers, none of them begun."""

    def make(*overrides: str) -> tuple[Launch, Grid]:
        grid = expand(load_config(grid_file, overrides))
        store = Store(tmp_path / "runs" / "t")
        write_cells(store, grid)
        digests = [cell.digest for cell in grid.cells]
        launch = Launch.new(store.folder, {"name": "local"}, 2, digests, grid.config.document)
        launch.write()
        return launch, grid

    return make


def test_workers_compute_their_shards_into_files_of_their_own_and_together_the_run(
    launched: Callable[..., Any], grid_file: Path, tmp_path: Path
) -> None:
    launch, _ = launched()
    assert run_worker(str(launch.folder), launch.workers[0], "job 7") == ""
    assert 0 < (first := lines(launch.folder)) < 180
    assert {Path(name).name for name in files(launch.folder)} == {f"{launch.workers[0]}.jsonl"}
    assert run_worker(str(launch.folder), launch.workers[1]) == ""
    assert lines(launch.folder) == 180 > first
    reference = run(load_config(grid_file), tmp_path / "whole").folder
    for name, data in files(reference).items():
        parts = [files(launch.folder)[str(Path(name).with_name(f"{worker}.jsonl"))] for worker in launch.workers]
        assert sorted(b"".join(parts).splitlines()) == sorted(data.splitlines())
    state = launch.state(launch.workers[0])
    assert (state["state"], state["job"], state["sentence"]) == ("finished", "job 7", False)
    assert not live_workers(launch)


def test_a_worker_that_is_started_again_does_the_rest_of_its_shard(launched: Callable[..., Any]) -> None:
    launch, grid = launched()
    worker = launch.workers[0]
    run_worker(str(launch.folder), worker)
    before = files(launch.folder)
    path = next(path for path in launch.folder.glob("cells/*/*.jsonl") if path.read_bytes().count(b"\n") > 3)
    path.write_bytes(path.read_bytes()[:-40])  # killed while it wrote
    own, left = restrict_grid(grid, Store(launch.folder), shard(grid, 1, 2))
    assert (left.total, left.left, len(own.cells)) == (90, 1, 6)
    run_worker(str(launch.folder), worker)
    assert files(launch.folder) == before


def test_a_worker_of_one_model_starts_after_the_samples_of_another_model(launched: Callable[..., Any]) -> None:
    launch, _ = launched("grid.model=[fake-copy, fake-vote]", "grid.shots=[2]")
    assert [run_worker(str(launch.folder), worker) for worker in launch.workers] == ["", ""]
    assert lines(launch.folder) == 240


def test_a_worker_whose_launch_was_given_up_computes_nothing_and_says_why(
    launched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.launch.worker.LAUNCH_TIMEOUT", 0.0)
    launch, _ = launched()
    launch.give_up()
    message = run_worker(str(launch.folder), launch.workers[0])
    assert message.endswith(f"the launch of worker {launch.workers[0]} was given up. Nothing is done.")
    assert lines(launch.folder) == 0
    assert message in capsys.readouterr().err
    other, _ = launched()
    assert run_worker(str(launch.folder), f"{launch.id}0-1") != "", "a worker of an earlier launch"
    assert lines(launch.folder) == 0
    assert Launch.read(launch.folder) == other
    (launch_folder(launch.folder) / "launch.json").unlink()
    assert run_worker(str(launch.folder), other.workers[0]) != ""
    assert lines(launch.folder) == 0


def test_a_launch_that_is_given_up_while_a_worker_waits_for_its_lock_ends_the_worker(
    launched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch, _ = launched()

    @contextlib.contextmanager
    def lock(folder: Path, worker: str) -> Iterator[None]:
        launch.give_up()
        yield

    monkeypatch.setattr("experiments.launch.worker.worker_lock", lock)
    message = run_worker(str(launch.folder), launch.workers[0])
    assert message.endswith("was given up. Nothing is done.")
    assert message in capsys.readouterr().err


def test_giving_up_an_earlier_launch_keeps_a_later_one(launched: Callable[..., Any]) -> None:
    earlier, _ = launched()
    time.sleep(0.002)
    later, _ = launched()
    earlier.give_up()
    assert Launch.read(later.folder) == later
    assert [run_worker(str(later.folder), worker) for worker in later.workers] == ["", ""]


def test_two_processes_cannot_be_one_worker(launched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.launch.base.LOCK_TIMEOUT", 0.0)
    launch, _ = launched()
    with worker_lock(launch.folder, launch.workers[0]):
        assert live_workers(launch) == [launch.workers[0]]
        with pytest.raises(StoreError, match=f"another process is the worker {launch.workers[0]} of "):
            run_worker(str(launch.folder), launch.workers[0])


def test_a_shard_of_an_experiment_that_has_changed_is_refused(
    launched: Callable[..., Any], grid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch, _ = launched()
    (grid_file.parent / "fake.py").write_text("def answer(request):\n    return 'blue'\n")
    message = run_worker(str(launch.folder), launch.workers[0])
    assert message.endswith("changed after the launch. Run the same command again.")
    assert message in capsys.readouterr().err
    state = launch.state(launch.workers[0])
    assert (state["state"], state["reason"], state["sentence"]) == ("stopped", message, True)
    assert lines(launch.folder) == 0


def test_the_launch_contains_overrides_and_the_folder_of_the_config(
    launched: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, grid = launched("seeds=[5]")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_worker(str(launch.folder), launch.workers[0]) == ""
    digests = {cell.digest for cell in grid.cells}
    assert {cell.seed for cell in grid.cells} == {5}
    assert {Path(name).parts[1] for name in files(launch.folder)} <= digests


def test_a_session_writes_a_heartbeat_until_it_ends_and_sums_counters(tmp_path: Path) -> None:
    launch_folder(tmp_path).mkdir()
    with WorkerSession(tmp_path, "w-1", beat=0.02) as session:
        session.counters.decoding_requests = 3
        first = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
        assert is_alive(first)
        assert not is_alive({**first, "beat": time.time() - HEARTBEAT_TIMEOUT - 1})
        time.sleep(0.2)
        later = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
        assert later["beat"] > first["beat"]
    last = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
    assert (last["state"], last["counters"]["decoding_requests"], is_alive(last)) == ("finished", 3, False)
    with (
        contextlib.suppress(SystemExit),
        WorkerSession(tmp_path, "w-1") as again,
    ):  # put back into a queue by whoever stops it
        again.counters.decoding_requests = 4
        again.will_restart = True
        raise SystemExit(-1)
    waiting = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
    assert (waiting["state"], waiting["counters"]["decoding_requests"], waiting["start"]) == (
        "waiting",
        7,
        first["start"],
    )


def test_a_worker_does_not_need_the_lock_of_the_run(launched: Callable[..., Any]) -> None:
    launch, _ = launched()
    with write_lock(launch.folder):  # the process that follows them has it
        assert run_worker(str(launch.folder), launch.workers[0]) == ""


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
    go: Go, tmp_path: Path, icl_process: Callable[..., Any], icl_here: Callable[..., Any]
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
        refused = icl_here(*arguments, more)
        assert (refused.returncode, sentence in refused.stderr) == (2, True)
    before = lines(folder)
    for process, by in zip(processes, (signal.SIGKILL, signal.SIGTERM), strict=True):
        os.kill(process.pid, by)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 128 + signal.SIGTERM]
    again = icl_here(*arguments, "1/2")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("shard 1/2 is finished.")
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
