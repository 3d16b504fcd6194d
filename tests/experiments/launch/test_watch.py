import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import lines, until

from experiments.launch.base import HEARTBEAT_TIMEOUT, Launch
from experiments.launch.watch import RunWatcher, SampleCounter
from experiments.store.lock import write_lock
from experiments.store.store import Store
from experiments.terminal.progress import SilentProgress
from icl.errors import StoreError

Go = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.launch.watch.POLL_SECONDS", 0.01)


def test_a_run_of_one_process_is_watched_to_its_end(tmp_path: Path, icl_process: Go, icl_here: Go) -> None:
    running = icl_process("run", "grid.yaml", "--quiet", slow=0.02)
    folder = tmp_path / "runs" / "t"
    until(lambda: lines(folder) >= 10)
    status = RunWatcher(folder).poll()
    assert 10 <= status.finished < 180
    assert (status.samples, status.cells, status.failed, status.workers.describe()) == (180, 6, 0, "1 worker")
    watching = icl_here("show", "runs/t", "--follow")
    assert watching.returncode == 0
    assert re.match(r"plan         6 cells, 180 samples, \d+ of them there already\n", watching.stderr)
    assert watching.stdout.splitlines()[0] == "complete     180 samples, 0 failed   runs/t"
    running.wait(timeout=60)


def test_live_workers_are_counted(tmp_path: Path, icl_process: Go) -> None:
    running = icl_process("run", "grid.yaml", "launcher.workers=2", slow=0.06)
    folder = tmp_path / "runs" / "t"
    until(lambda: lines(folder) >= 10)
    launch = Launch.read(folder)
    assert launch is not None
    until(lambda: RunWatcher(folder).poll().workers.describe() == "2 of 2 workers")
    os.kill(launch.state(launch.workers[0])["process"], signal.SIGTERM)
    until(lambda: RunWatcher(folder).poll().workers.describe() == "1 of 2 workers")
    assert running.wait(timeout=60) == 1
    status = RunWatcher(folder).poll()
    assert status.is_abandoned
    assert (status.workers.describe(), status.complete) == ("no worker", False)


def test_a_worker_without_a_heartbeat_is_not_counted_and_one_that_has_not_started_is_waiting(go: Go) -> None:
    done, _ = go("run")
    launch = Launch.new(done.folder, {"name": "slurm"}, 3, [])
    launch.write()
    write = {launch.workers[0]: time.time(), launch.workers[1]: time.time() - HEARTBEAT_TIMEOUT - 1}
    for worker, beat in write.items():
        (done.folder / "launch" / f"{worker}.json").write_text(json.dumps({"state": "running", "beat": beat}))
    assert RunWatcher(done.folder).poll().workers.describe() == "1 of 3 workers, 1 waiting"


def slurm_that_says(folder: Path, states: str) -> Path:
    """A folder with the commands of a Slurm whose queue has these lines."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, lines_ in (("sbatch", ""), ("srun", ""), ("squeue", states)):
        (programs / name).write_text(f"#!/bin/sh\nprintf '{lines_}'\n")
        (programs / name).chmod(0o755)
    return programs


def test_a_job_that_the_cluster_requeues_without_a_signal_is_waiting(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failure of its node: the last heartbeat is old, and no worker has written that it stops."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    done, _ = go("run")
    node = {"name": "slurm", "nodes": 2}
    launch = Launch.new(done.folder, node, 2, [])
    launch.with_jobs(dict(zip(launch.workers, ("7_0", "7_1"), strict=True)))
    for worker in launch.workers:
        (done.folder / "launch" / f"{worker}.json").write_text(json.dumps({"state": "running", "beat": 0}))
    programs = slurm_that_says(tmp_path, "7_0|PENDING|BeginTime\n7_1|NODE_FAIL|None\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RunWatcher(done.folder).poll().workers.describe() == "0 of 2 workers", "Slurm cannot be asked from here"
    monkeypatch.setenv("PATH", str(programs))
    assert RunWatcher(done.folder).poll().workers.describe() == "0 of 2 workers, 1 waiting"


def test_watching_ends_if_jobs_are_canceled_before_they_start(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    done, _ = go("run", "grid.shots=[2]")
    go("other", "grid.shots=[0, 2]")
    (tmp_path / "other" / "t" / "run.json").replace(done.folder / "run.json")  # of a run with more samples
    launch = Launch.new(done.folder, {"name": "slurm", "nodes": 2}, 2, [])
    launch.with_jobs(dict(zip(launch.workers, ("7_0", "7_1"), strict=True)))
    programs = slurm_that_says(tmp_path, "7_0|PENDING|Priority\n7_1|PENDING|Priority\n")
    monkeypatch.setenv("PATH", str(programs))
    watcher = RunWatcher(done.folder)
    assert watcher.poll().workers.describe() == "0 of 2 workers, 2 waiting"
    slurm_that_says(tmp_path, "7_0|CANCELLED|None\n7_1|CANCELLED|None\n")
    assert watcher.poll().workers.waiting == 2, "the cluster is not asked at every poll"
    monkeypatch.setattr("experiments.launch.watch.CLUSTER_SECONDS", 0)
    status = watcher.follow(SilentProgress())
    assert status.is_abandoned
    assert status.workers.describe() == "0 of 2 workers"


def test_workers_that_have_not_started_wait_while_slurm_does_not_answer(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    done, _ = go("run")
    launch = Launch.new(done.folder, {"name": "slurm"}, 1, [])
    launch.with_jobs({launch.workers[0]: "7"})
    programs = slurm_that_says(tmp_path, "")
    (programs / "squeue").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(programs))
    assert RunWatcher(done.folder).poll().workers.describe() == "0 of 1 workers, 1 waiting"


def test_watching_ends_if_a_local_launch_died_before_its_workers_started(go: Go, tmp_path: Path) -> None:
    done, _ = go("run", "grid.shots=[2]")
    go("other", "grid.shots=[0, 2]")
    (tmp_path / "other" / "t" / "run.json").replace(done.folder / "run.json")  # of a run with more samples
    Launch.new(done.folder, {"name": "local", "workers": 2}, 2, []).write()
    watcher = RunWatcher(done.folder)
    with write_lock(done.folder):
        assert watcher.poll().workers.describe() == "0 of 2 workers, 2 waiting"
    assert watcher.poll().is_abandoned


def test_watching_ends_with_a_message_if_no_worker_is_left(tmp_path: Path, icl_process: Go, icl_here: Go) -> None:
    running = icl_process("run", "grid.yaml", "--runs", "dead", slow=0.02)
    folder = tmp_path / "dead" / "t"
    until(lambda: lines(folder) >= 10)
    running.kill()
    running.wait()
    watching = icl_here("show", "dead/t", "--follow")
    assert watching.returncode == 1
    message = (
        rf"dead/t: no worker is running\. {lines(folder)}/180 samples, 0 failed   \d/6 cells   no worker\. Run its"
    )
    assert re.search(message, watching.stderr)


def test_a_complete_run_ends_at_once_and_failed_samples_are_an_exit_status(
    go: Go, tmp_path: Path, icl_here: Go
) -> None:
    (tmp_path / "half.png").write_bytes(b"no image")
    done, _ = go("runs", f"task.broken={tmp_path / 'half.png'}")
    status = RunWatcher(done.folder).follow(SilentProgress())
    assert (status.complete, status.finished, status.failed, status.cells_done) == (True, 174, 6, 6)
    once, to_the_end = icl_here("show", "runs/t", "progress"), icl_here("show", "runs/t", "--follow")
    assert (once.returncode, once.stdout) == (0, "174/180 samples, 6 failed   6/6 cells   no worker   runs/t\n")
    assert (to_the_end.returncode, to_the_end.stdout.splitlines()[0]) == (
        1,
        "complete     174 samples, 6 failed   runs/t",
    )


def test_new_failures_are_reported(go: Go, tmp_path: Path) -> None:
    done, _ = go("runs")
    path = next(done.folder.glob("cells/*/0.jsonl"))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-2]))
    watch, last = RunWatcher(done.folder), json.loads(whole[-1])
    with write_lock(done.folder):
        assert not watch.poll().complete
        with path.open("ab") as file:
            file.write(whole[-2] + json.dumps({**last, "failed": "no image"}).encode() + b"\n")
        status = watch.poll()
        assert (watch.new_failures, status.failed) == ([(last["query"], "no image")], 1)
        assert not status.complete, "a failed sample may still be tried again"
    assert watch.poll().complete


def test_a_killed_process_does_not_count_as_a_worker(go: Go) -> None:
    done, _ = go("runs")
    holder = done.folder / ".holder.json"
    holder.write_text(json.dumps({"process": os.getpid(), "machine": platform.node()}))
    assert RunWatcher(done.folder).poll().workers.alive == 0
    holder.write_text(json.dumps({"process": os.getpid(), "machine": "elsewhere"}))
    assert RunWatcher(done.folder).poll().workers.alive == 1


def test_a_run_of_an_older_version_is_counted_without_its_size(go: Go) -> None:
    done, _ = go("runs")
    info = json.loads((done.folder / "run.json").read_text())
    del info["sizes"]
    (done.folder / "run.json").write_text(json.dumps(info))
    status = RunWatcher(done.folder).poll()
    assert (status.finished, status.samples, status.describe()[:20]) == (180, 0, "180 samples, 0 faile")


def test_another_config_of_the_same_run_is_noticed(go: Go) -> None:
    done, _ = go("runs")
    watch = RunWatcher(done.folder)
    assert watch.poll().samples == 180
    go("runs", "grid.shots=[2]")
    assert (watch.poll().samples, watch.poll().cells) == (120, 4)


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a run directory \(no run\.json\)"):
        RunWatcher(tmp_path)


A, B = "a" * 16, "b" * 16


def line(query: str, cell: str = A, failed: str = "") -> str:
    sample = {"cell": cell, "query": query, "seed": 0, "output": "x"}
    return json.dumps({**sample, "failed": failed} if failed else sample) + "\n"


def put(folder: Path, text: str, cell: str = A, worker: str = "0") -> None:
    path = folder / "cells" / cell / f"{worker}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_new_samples_are_counted_and_each_query_once(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 3), (B, 1)], None)
    assert (counter.poll(), counter.done, counter.samples, len(counter.finished_cells)) == ([], 0, 4, 0)
    put(tmp_path, line("q1") + line("q2"))
    put(tmp_path, line("q2") + line("q3")[:-9], worker="1")
    counter.poll()
    assert (counter.done, len(counter.finished_cells)) == (2, 0), "half a line is not counted"
    put(tmp_path, line("q3")[-9:], worker="1")
    put(tmp_path, line("q1", B), B)
    counter.poll()
    assert (counter.done, len(counter.finished_cells)) == (4, 2)


def test_a_failed_sample_is_reported_once_and_counts_as_finished_when_it_is(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 2)], None)
    put(tmp_path, line("q1", failed="no image") + line("q2"))
    assert counter.poll() == [("q1", "no image")]
    assert (counter.poll(), counter.done, counter.failed) == ([], 2, 1)
    put(tmp_path, line("q1"))
    assert (counter.poll(), counter.done, counter.failed) == ([], 2, 0)


def test_merged_files_are_counted_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    counter = SampleCounter(store, [(A, 3)], None)
    put(tmp_path, line("q1") + line("q2"), worker="w-1")
    put(tmp_path, line("q3"), worker="w-2")
    counter.poll()
    store.replace_samples(A, list(store.samples(A)))
    counter.poll()
    assert (counter.done, [path.name for path in (tmp_path / "cells" / A).iterdir()]) == (3, ["0.jsonl"])


def test_a_rewritten_file_is_counted_again(tmp_path: Path) -> None:
    counter = SampleCounter(Store(tmp_path), [(A, 3)], None)
    put(tmp_path, line("q1", failed="no image, for a long reason") + line("q2"))
    counter.poll()
    (tmp_path / "cells" / A / "0.jsonl").write_text(line("q1") + line("q2"))
    counter.poll()
    assert (counter.done, counter.failed) == (2, 0)
    put(tmp_path, line("q3"))
    counter.poll()
    assert (counter.done, len(counter.finished_cells)) == (3, 1)


def test_only_files_of_the_workers_are_counted(tmp_path: Path) -> None:
    put(tmp_path, line("q1"))
    put(tmp_path, line("q2"), worker="w-1")
    counter = SampleCounter(Store(tmp_path), [(A, None)], ["w-1", "w-2"])
    counter.poll()
    assert (counter.done, counter.samples) == (1, 0)
