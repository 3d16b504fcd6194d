"""A real cluster of two cores on this machine, where the package ray is installed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import files

from experiments.launch.base import Launch
from experiments.results.loaded_run import load_run
from icl.errors import PlanError

Go = Callable[..., Any]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra ray (80 MB) is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_tasks_of_a_real_cluster_write_what_one_process_writes(ray: Any, go: Go) -> None:
    reference, _ = go("one")
    tasks, progress = go("tasks", "launcher=ray", "launcher.workers=2")
    assert files(tasks.folder) == files(reference.folder)
    assert (tasks.computed, tasks.missing, progress.notes) == (180, 0, [])
    workers = load_run(tasks.folder).info["sessions"][0]["workers"]
    assert [w["state"] for w in workers] == ["finished"] * 2
    logs = (tasks.folder / "launch" / "logs").glob("*.log")
    assert all("plan         6 cells" in log.read_text() for log in logs)


def test_a_task_whose_process_dies_is_restarted_and_continues(ray: Any, go: Go, tmp_path: Path) -> None:
    fake = (tmp_path / "fake.py").read_text()
    dying = fake.replace(
        "def answer(request):\n",
        "def answer(request):\n    answer.calls = getattr(answer, 'calls', 0) + 1\n    from pathlib import Path\n"
        f"    mark = Path({str(tmp_path / 'died')!r})\n"
        "    if answer.calls == 50 and not mark.exists():\n        mark.touch()\n        os._exit(9)\n",
    )
    (tmp_path / "fake.py").write_text(dying)
    done, _ = go("dying", "launcher=ray", "launcher.workers=1")
    assert (tmp_path / "died").exists()
    assert (done.computed, done.missing) == (180, 0)
    whole, _ = go("whole")
    assert files(done.folder) == files(whole.folder)


def test_a_task_that_is_not_restarted_is_reported(ray: Any, go: Go, tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text("import os\n\ndef answer(request):\n    os._exit(9)\n")
    done, progress = go("dead", "launcher=ray", "launcher.workers=1", "launcher.retries=0")
    assert (done.computed, done.missing) == (0, 180)
    (note,) = progress.notes
    assert note.startswith("worker 1 (job ")
    assert "died: " in note
    assert "The end of " in note


def test_a_cluster_that_is_not_there_is_a_sentence(icl_process: Go, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray (80 MB) is not installed")
    process = icl_process("run", "grid.yaml", "launcher=ray", "launcher.address=127.0.0.1:1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("launcher=ray: no Ray cluster at '127.0.0.1:1': ")
    assert Launch.read(tmp_path / "runs" / "t") is None


def test_a_missing_package_is_reported_before_anything_is_read(
    go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("experiments.launch.machines.find_spec", lambda name: None)
    with pytest.raises(PlanError) as caught:
        go("never", "launcher=ray")
    message = 'launcher=ray needs the package ray, which is not installed: pip install "mm-icl[ray]".'
    assert str(caught.value) == message
    assert not (tmp_path / "never").exists()
