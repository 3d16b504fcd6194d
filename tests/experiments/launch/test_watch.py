import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launched import lines, until

from experiments.launch.launch_files import SILENT, Launch
from experiments.launch.watch import RunWatcher
from experiments.terminal.progress import SilentProgress
from icl.errors import StoreError

Go = Callable[..., Any]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.launch.watch.EVERY", 0.01)


def test_a_run_of_one_process_is_watched_to_its_end(tmp_path: Path, icl_process: Go) -> None:
    running = icl_process("run", "grid.yaml", "--quiet", slow=0.02)
    folder = tmp_path / "runs" / "t"
    until(lambda: lines(folder) >= 10)
    seen = RunWatcher(folder).poll()
    assert 10 <= seen.finished < 180
    assert (seen.samples, seen.cells, seen.failed, seen.workers.told()) == (180, 6, 0, "1 worker")
    watching = icl_process("watch", "runs/t")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert re.match(r"plan         6 cells, 180 samples, \d+ of them there already\n", err)
    assert out.splitlines()[0] == "complete     180 samples, 0 failed   runs/t"
    running.wait(timeout=60)


def test_workers_are_counted_as_they_live(tmp_path: Path, icl_process: Go) -> None:
    running = icl_process("run", "grid.yaml", "launcher.workers=2", slow=0.03)
    folder = tmp_path / "runs" / "t"
    until(lambda: lines(folder) >= 10)
    one = Launch.read(folder)
    assert one is not None
    until(lambda: RunWatcher(folder).poll().workers.told() == "2 of 2 workers")
    os.kill(one.state(one.workers[0])["process"], signal.SIGTERM)
    until(lambda: RunWatcher(folder).poll().workers.told() == "1 of 2 workers")
    assert running.wait(timeout=60) == 1
    seen = RunWatcher(folder).poll()
    assert seen.alone
    assert (seen.workers.told(), seen.complete) == ("no worker", False)


def test_a_worker_without_a_sign_of_life_is_no_worker_and_one_that_has_not_begun_waits(go: Go) -> None:
    done, _ = go("run")
    one = Launch.new(done.folder, {"name": "slurm"}, 3, [])
    one.write()
    write = {one.workers[0]: time.time(), one.workers[1]: time.time() - SILENT - 1}
    for worker, beat in write.items():
        (done.folder / "launch" / f"{worker}.json").write_text(json.dumps({"state": "running", "beat": beat}))
    assert RunWatcher(done.folder).poll().workers.told() == "1 of 3 workers, 1 waiting"


def test_where_nobody_is_left_it_says_so_and_ends(go: Go, tmp_path: Path, icl_process: Go) -> None:
    running = icl_process("run", "grid.yaml", "--runs", "dead", slow=0.02)
    folder = tmp_path / "dead" / "t"
    until(lambda: lines(folder) >= 10)
    running.kill()
    running.wait()
    watching = icl_process("watch", "dead/t")
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 1
    told = (
        rf"dead/t: nobody is at work\. {lines(folder)}/180 samples, 0 failed   \d/6 cells   no worker\. The `icl run`"
    )
    assert re.search(told, err)


def test_a_complete_run_ends_at_once_and_failed_samples_are_an_exit_status(
    go: Go, tmp_path: Path, icl_process: Go
) -> None:
    (tmp_path / "half.png").write_bytes(b"no image")
    done, _ = go("runs", f"task.broken={tmp_path / 'half.png'}")
    seen = RunWatcher(done.folder).follow(SilentProgress())
    assert (seen.complete, seen.finished, seen.failed, seen.cells_done) == (True, 174, 6, 6)
    once, to_the_end = icl_process("watch", "runs/t", "--once"), icl_process("watch", "runs/t")
    out, _ = once.communicate(timeout=60)
    assert (once.returncode, out) == (0, "174/180 samples, 6 failed   6/6 cells   no worker   runs/t\n")
    out, _ = to_the_end.communicate(timeout=60)
    assert (to_the_end.returncode, out.splitlines()[0]) == (1, "complete     174 samples, 6 failed   runs/t")


def test_what_fails_while_it_watches_is_told(go: Go, tmp_path: Path) -> None:
    done, _ = go("runs")
    path = next(done.folder.glob("cells/*/0.jsonl"))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-2]))
    (done.folder / ".holder.json").write_text(json.dumps({"process": os.getpid(), "machine": os.uname().nodename}))
    watch = RunWatcher(done.folder)
    assert not watch.poll().complete
    last = json.loads(whole[-1])
    with path.open("ab") as file:
        file.write(whole[-2] + json.dumps({**last, "failed": "no image"}).encode() + b"\n")
    seen = watch.poll()
    assert (watch.news, seen.failed) == ([(last["query"], "no image")], 1)
    assert not seen.complete, "a failed sample may still be tried again"
    (done.folder / ".holder.json").unlink()
    assert watch.poll().complete


def test_a_run_of_an_older_version_is_counted_without_its_size(go: Go) -> None:
    done, _ = go("runs")
    told = json.loads((done.folder / "run.json").read_text())
    del told["sizes"]
    (done.folder / "run.json").write_text(json.dumps(told))
    seen = RunWatcher(done.folder).poll()
    assert (seen.finished, seen.samples, seen.told()[:20]) == (180, 0, "180 samples, 0 faile")


def test_another_config_of_the_same_run_is_noticed(go: Go) -> None:
    done, _ = go("runs")
    watch = RunWatcher(done.folder)
    assert watch.poll().samples == 180
    go("runs", "grid.shots=[2]")
    assert (watch.poll().samples, watch.poll().cells) == (120, 4)


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a run directory \(no run\.json\)"):
        RunWatcher(tmp_path)
