import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from launched import files, lines, until

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.launch.base import Launch
from experiments.launch.machines import worker_environments
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from icl.errors import ConfigError, StoreError

Go = Callable[..., Any]
LOUD = '''
"""A fake that writes down which process has loaded it."""
import os
from dataclasses import dataclass
from pathlib import Path

from icl.models.fake import FakeCopy

@dataclass(frozen=True)
class Loud(FakeCopy):
    folder: str = ""

    def load(self):
        (Path(self.folder) / str(os.getpid())).touch()
'''

IDLE = '''
"""A launcher whose workers say that they have finished, and compute nothing."""
from dataclasses import dataclass

from experiments.launch.base import WorkerStatus
from experiments.launch.worker import WorkerSession

@dataclass(frozen=True)
class Idle:
    workers: int = 1
    wait = True

    def check(self): ...

    def start(self, launch):
        with WorkerSession(launch.folder, launch.workers[0]):
            return Jobs({launch.workers[0]: "here"})

    def reattach(self, launch): ...

@dataclass
class Jobs:
    jobs: dict
    cancel_command: str = ""

    def poll(self):
        return {worker: WorkerStatus("ended") for worker in self.jobs}

    def detach(self):
        return ""
'''


def test_more_workers_than_gpus_are_a_warning_of_plan_and_run(
    go: Go, grid_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    sentence = "launcher: 5 workers share 2 GPUs, so up to 3 models are loaded on one GPU. Use launcher.workers=2"
    assert main(["plan", str(grid_file), "launcher.workers=5"]) == 0
    assert sentence in " ".join("".join(capsys.readouterr()).split())
    assert main(["plan", str(grid_file), "launcher.workers=2"]) == 0
    assert "share" not in capsys.readouterr().err
    outcome, _ = go("warned", "launcher.workers=3")
    assert "3 workers share 2 GPUs" in outcome.warnings[-1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert expand(load_config(grid_file, ["launcher.workers=5"])).warnings == ()


def test_processes_that_share_a_grid_write_what_one_process_writes(go: Go, tmp_path: Path) -> None:
    reference, _ = go("one")
    several, progress = go("several", "launcher.workers=2")
    assert files(several.folder) == files(reference.folder)
    assert (several.samples, several.computed, several.failed, several.missing) == (180, 180, 0, 0)
    assert (progress.done, progress.cells_done, progress.notes) == (180, 6, [])
    info = load_run(several.folder).info
    assert [s["state"] for s in info["sessions"]] == ["finished"]
    assert [w["state"] for w in info["sessions"][0]["workers"]] == ["finished"] * 2
    assert info["cells"] == load_run(reference.folder).info["cells"], "a launcher is not part of a cell"
    assert Launch.read(several.folder) is None
    again, _ = go("several", "launcher.workers=2")
    assert (again.computed, again.present) == (0, 180)
    assert go("several")[0].present == 180


def test_counters_of_the_workers_are_one_session_of_the_run(yaml_file: Callable[..., Path], tmp_path: Path) -> None:
    path = yaml_file("""
        name: t
        task: {name: SHAPES, queries: 8}
        model: TOY
        grid: {shots: [0, 2], decoding: [greedy, vcd]}
    """)
    single, shared = (
        run(load_config(path, more), tmp_path / name) for name, more in (("a", []), ("b", ["launcher.workers=2"]))
    )
    assert files(shared.folder) == files(single.folder)
    sessions = [load_run(done.folder).info["sessions"][0] for done in (single, shared)]
    for key in ("decoding_requests", "branch_prompts", "prompts_prefilled"):
        assert sessions[0]["counters"][key] == sessions[1]["counters"][key] > 0, "no prompt was opened by both"
    assert sessions[0]["arms"]["vcd"]["contrasts"] == sessions[1]["arms"]["vcd"]["contrasts"] > 0


def test_the_process_that_starts_workers_loads_no_model(go: Go, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "loads").mkdir()
    more = [f"model={{name: 'loud.py:Loud', folder: '{tmp_path / 'loads'}'}}", "launcher.workers=2"]
    done, _ = go("loud", *more)
    loads = {int(path.name) for path in (tmp_path / "loads").iterdir()}
    assert (done.computed, len(loads), os.getpid() in loads) == (180, 2, False)


def test_a_worker_that_dies_is_reported_with_the_end_of_its_log_and_the_same_command_goes_on(
    go: Go, tmp_path: Path, icl_process: Callable[..., Any], icl_here: Callable[..., Any]
) -> None:
    whole, _ = go("whole")
    arguments = ("run", "grid.yaml", "--runs", "killed", "launcher.workers=2")
    process = icl_process(*arguments, slow=0.05)
    folder = tmp_path / "killed" / "t"
    until(lambda: lines(folder) >= 20)
    launch = Launch.read(folder)
    assert launch is not None
    os.kill(worker_processes(launch)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"worker 1 (job {launch.jobs[launch.workers[0]]}) died: killed by SIGKILL. What it finished is kept." in err
    assert f"The end of killed/t/launch/logs/{launch.workers[0]}.log:" in err
    assert "samples are missing. Run the same command to compute them." in err
    assert 20 <= lines(folder) < 180
    again = icl_here(*arguments)
    assert again.returncode == 0, again.stderr
    assert files(folder) == files(whole.folder)
    assert "report  killed/t/report.html" in again.stdout


def test_workers_end_with_their_parent_process_and_the_run_stays_locked_until_then(
    go: Go, tmp_path: Path, icl_process: Callable[..., Any]
) -> None:
    process = icl_process("run", "grid.yaml", "--runs", "orphans", "launcher.workers=2", slow=0.05)
    folder = tmp_path / "orphans" / "t"
    until(lambda: lines(folder) >= 10)
    launch = Launch.read(folder)
    assert launch is not None
    workers = worker_processes(launch)
    with stopped(workers):  # so that none ends before the run is refused
        with pytest.raises(StoreError, match=rf"is being run by process {process.pid} on "):
            go("orphans")
        process.kill()
        process.wait()
        with pytest.raises(StoreError, match=r"by 2 workers of launcher=local since .* or use another name\."):
            go("orphans")
    until(lambda: not any(map(process_exists, workers)))
    done, _ = go("orphans")
    assert done.missing == 0
    assert 10 <= done.present < 180
    assert done.present + done.computed == 180


def test_ctrl_c_ends_the_workers_and_keeps_what_they_finished(
    go: Go, tmp_path: Path, icl_process: Callable[..., Any]
) -> None:
    process = icl_process("run", "grid.yaml", "--runs", "stopped", "launcher.workers=2", slow=0.05)
    folder = tmp_path / "stopped" / "t"
    until(lambda: lines(folder) >= 10)
    launch = Launch.read(folder)
    assert launch is not None
    workers = worker_processes(launch)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("stopped. Finished samples are stored; run the same command to continue.\n")
    assert not any(map(process_exists, workers))
    assert load_run(folder).info["sessions"][-1]["state"] == "interrupted"
    done, progress = go("stopped", "launcher.workers=2")
    assert done.missing == 0, progress.notes


def test_workers_compute_cells_that_have_no_samples_yet_though_other_cells_have(go: Go, tmp_path: Path) -> None:
    go("resumed", "grid.shots=[0]")
    done, progress = go("resumed", "launcher.workers=2")
    assert (done.present, done.computed, done.missing, progress.notes) == (60, 120, 0, [])


def test_workers_that_finish_without_their_samples_are_reported(go: Go, tmp_path: Path) -> None:
    (tmp_path / "idle.py").write_text(IDLE)
    done, progress = go("idle", "launcher=idle.py:Idle")
    assert (done.computed, done.missing) == (0, 180)
    assert progress.notes == [f"all workers finished their shares, and 180 samples are not in {done.folder}."]


def test_an_error_that_stops_all_workers_is_reported_once(go: Go, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from dataclasses import dataclass\nfrom icl.errors import ModelError\nfrom icl.models.fake import FakeCopy\n\n"
        "@dataclass(frozen=True)\nclass Broken(FakeCopy):\n"
        "    def load(self):\n        raise ModelError('the weights are gone.')\n"
    )
    done, progress = go("broken", "model=broken.py:Broken", "launcher.workers=2")
    assert (done.computed, done.missing) == (0, 180)
    (note,) = progress.notes
    assert note.startswith("workers 1 (job ")
    assert note.endswith("grid.yaml: model: the weights are gone.")


def test_failed_samples_are_reported_and_counted(go: Go, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(b"no image")
    done, progress = go("failed", f"task.broken={tmp_path / 'half.png'}", "launcher.workers=2")
    assert (done.failed, done.missing, progress.failures) == (6, 0, 6)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["launcher=locl"],
            "command line: launcher: no launcher named 'locl'. Did you mean 'local'? (icl ls launcher)",
        ),
        (
            ["launcher.wrkers=2"],
            "launcher 'local' has no parameter 'wrkers'. Did you mean 'workers'? It takes workers.",
        ),
        (["launcher.workers=0"], "launcher 'local', workers: input should be greater than or equal to 1, not 0."),
        (["launcher=[local]"], "command line: launcher: launcher must be one component, not a list. ("),
        (["launcher=slurm", "launcher.nodes=0"], "launcher 'slurm', nodes: input should be greater than or equal to 1"),
        (["grid.launcher=[local]"], "no component reads the axis 'launcher'."),
    ],
)
def test_an_invalid_launcher_is_a_sentence(go: Go, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        go("never", *overrides)
    assert sentence in str(caught.value)


def test_processes_divide_devices_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environments(2, []) == [{}, {}]
    devices = [environment["CUDA_VISIBLE_DEVICES"] for environment in worker_environments(2, ["0", "1", "2", "5"])]
    assert devices == ["0,2", "1,5"]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in worker_environments(3, ["4", "6"])] == [
        "4",
        "6",
        "4",
    ]
    monkeypatch.delenv("OMP_NUM_THREADS")
    (threads, _), cores = worker_environments(2, []), len(os.sched_getaffinity(0))
    assert threads == {"OMP_NUM_THREADS": str(max(1, cores // 2))}


def test_a_file_beside_the_config_hides_no_package(go: Go, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "prompts.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    assert "" not in sys.path
    assert go("beside", "launcher.workers=2")[0].missing == 0


def test_a_users_launcher_is_a_class_by_path(go: Go, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom experiments.launch.base import WorkerStatus\n"
        "from experiments.launch.worker import run_worker\n\n"
        "@dataclass(frozen=True)\nclass Inline:\n    workers: int = 3\n    wait = True\n\n"
        "    def check(self): ...\n\n"
        "    def start(self, launch):\n"
        "        return "
        "Done({worker: run_worker(str(launch.folder), worker) or 'here' for worker in launch.workers})\n\n"
        "    def reattach(self, launch): ...\n\n\n"
        "@dataclass\nclass Done:\n    jobs: dict\n    cancel_command: str = ''\n\n"
        "    def poll(self):\n        return {worker: WorkerStatus('ended') for worker in self.jobs}\n\n"
        "    def detach(self):\n        return ''\n"
    )
    done, _ = go("mine", "launcher=mine.py:Inline")
    assert (done.missing, len(load_run(done.folder).info["sessions"][0]["workers"])) == (0, 3)
    assert json.loads((done.folder / "run.json").read_text())["sessions"][0]["launcher"]["name"] == "mine.py:Inline"


def worker_processes(launch: Launch) -> list[int]:
    """Waits until all workers have started, and returns their process ids."""
    until(lambda: all(map(launch.state, launch.workers)))
    return [launch.state(worker)["process"] for worker in launch.workers]


@contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def process_exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
