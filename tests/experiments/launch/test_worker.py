import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import files, lines

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.launch.launch_files import (
    SILENT,
    Launch,
    is_alive,
    launch_folder,
    live_workers,
    read_share,
    worker_lock,
)
from experiments.launch.shares import shares
from experiments.launch.worker import WorkerSession, restrict_grid, run_worker, sum_counters
from experiments.running.run import run
from experiments.store.lock import write_lock
from experiments.store.run_state import load_run_state, write_cells
from experiments.store.store import Store
from icl.errors import StoreError


@pytest.fixture
def launched(grid_file: Path, tmp_path: Path) -> Callable[..., tuple[Launch, Grid]]:
    """A launch of two workers, none of them begun."""

    def make(*overrides: str) -> tuple[Launch, Grid]:
        grid = expand(load_config(grid_file, overrides))
        store = Store(tmp_path / "runs" / "t")
        missing = load_run_state(store, grid).missing
        write_cells(store, grid)
        one = Launch.new(store.folder, {"name": "local"}, 2, [cell.digest for cell in grid.cells])
        for worker, blocks in zip(one.workers, shares(grid, missing, 2), strict=True):
            one.write_share(worker, [block.told() for block in blocks], grid.config.document)
        one.write()
        return one, grid

    return make


def test_workers_compute_their_shares_into_files_of_their_own_and_together_the_run(
    launched: Callable[..., Any], grid_file: Path, tmp_path: Path
) -> None:
    one, _ = launched()
    assert run_worker(str(one.folder), one.workers[0], "job 7") == ""
    assert 0 < (first := lines(one.folder)) < 180
    assert {Path(name).name for name in files(one.folder)} == {f"{one.workers[0]}.jsonl"}
    assert run_worker(str(one.folder), one.workers[1]) == ""
    assert lines(one.folder) == 180 > first
    whole = run(load_config(grid_file), tmp_path / "whole").folder
    for name, data in files(whole).items():
        parts = [(one.folder / name).with_name(f"{worker}.jsonl").read_bytes() for worker in one.workers]
        assert b"".join(parts) == data, "shares are in the order of the queries"
    told = one.state(one.workers[0])
    assert (told["state"], told["job"], told["sentence"]) == ("finished", "job 7", False)
    assert not live_workers(one)


def test_a_worker_that_is_started_again_does_the_rest_of_its_share(launched: Callable[..., Any]) -> None:
    one, grid = launched()
    worker = one.workers[0]
    run_worker(str(one.folder), worker)
    before = files(one.folder)
    path = next(path for path in one.folder.glob("cells/*/*.jsonl") if path.read_bytes().count(b"\n") > 3)
    path.write_bytes(path.read_bytes()[:-40])  # killed while it wrote
    own, left = restrict_grid(grid, Store(one.folder), (read_share(one.folder, worker) or {})["blocks"])
    assert (left.total, left.left, len(own.cells)) == (90, 1, 6)
    run_worker(str(one.folder), worker)
    assert files(one.folder) == before


def test_a_worker_of_one_model_starts_after_the_samples_of_another_model(launched: Callable[..., Any]) -> None:
    launch, _ = launched("grid.model=[fake-copy, fake-vote]", "grid.shots=[2]")
    assert [run_worker(str(launch.folder), worker) for worker in launch.workers] == ["", ""]
    assert lines(launch.folder) == 240


def test_a_worker_whose_launch_was_given_up_does_nothing(
    launched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.launch.worker.AGAIN", 0.0)
    one, _ = launched()
    one.give_up()
    assert run_worker(str(one.folder), one.workers[0]) == ""
    assert lines(one.folder) == 0
    assert "the launch of worker" in capsys.readouterr().err
    other, _ = launched()
    assert run_worker(str(one.folder), f"{one.id}0-1") == "", "a worker of an earlier launch"
    assert lines(one.folder) == 0
    assert Launch.read(one.folder) == other
    (launch_folder(one.folder) / "launch.json").unlink()
    assert run_worker(str(one.folder), other.workers[0]) == "", "its share is still there"
    assert lines(one.folder) == 0


def test_two_processes_cannot_be_one_worker(launched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.launch.launch_files.PATIENCE", 0.0)
    one, _ = launched()
    with worker_lock(one.folder, one.workers[0]):
        assert live_workers(one) == [one.workers[0]]
        with pytest.raises(StoreError, match=f"another process is the worker {one.workers[0]} of "):
            run_worker(str(one.folder), one.workers[0])


def test_a_share_of_an_experiment_that_has_changed_is_refused(
    launched: Callable[..., Any], grid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = launched()
    (grid_file.parent / "fake.py").write_text("def answer(request):\n    return 'blue'\n")
    said = run_worker(str(one.folder), one.workers[0])
    assert said.endswith("has changed since it was launched. Run the same command again.")
    assert said in capsys.readouterr().err
    told = one.state(one.workers[0])
    assert (told["state"], told["reason"], told["sentence"]) == ("stopped", said, True)
    assert lines(one.folder) == 0


def test_overrides_and_the_folder_of_the_config_travel_with_the_share(
    launched: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, grid = launched("seeds=[5]")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_worker(str(one.folder), one.workers[0]) == ""
    digests = {cell.digest for cell in grid.cells}
    assert {cell.seed for cell in grid.cells} == {5}
    assert {Path(name).parts[1] for name in files(one.folder)} <= digests


def test_a_shift_tells_that_it_lives_until_it_ends_and_adds_up_what_it_counts(tmp_path: Path) -> None:
    launch_folder(tmp_path).mkdir()
    with WorkerSession(tmp_path, "w-1", beat=0.02) as shift:
        shift.counters.decoding_requests = 3
        first = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
        assert is_alive(first)
        assert not is_alive({**first, "beat": time.time() - SILENT - 1})
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
        again.waits = True
        raise SystemExit(-1)
    waiting = json.loads((launch_folder(tmp_path) / "w-1.json").read_text())
    assert (waiting["state"], waiting["counters"]["decoding_requests"], waiting["start"]) == (
        "waiting",
        7,
        first["start"],
    )


def test_counters_are_added_by_name() -> None:
    assert sum_counters([{"a": 1, "of": {"x": 1}}, {"a": 2, "b": 1, "of": {"x": 2, "y": 5}}, {}]) == {
        "a": 3,
        "b": 1,
        "of": {"x": 3, "y": 5},
    }


def test_the_lock_of_a_run_is_not_the_workers(launched: Callable[..., Any]) -> None:
    one, _ = launched()
    with write_lock(one.folder):  # the process that follows them has it
        assert run_worker(str(one.folder), one.workers[0]) == ""
