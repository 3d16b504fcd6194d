import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from slurm_cluster import Cluster, lacking

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.running.run import run
from experiments.running.run_session import RunOutcome
from experiments.terminal.progress import SilentProgress

SHAPES = Path(__file__).parents[1] / "shapes.py"
FAKE = '''
"""A slow fake, which can be stopped in the middle."""
import os
import time

def answer(request):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return request.demos[-1][0].answer if request.demos else "red"
'''
GRID = """
    name: t
    task: {name: SHAPES, queries: 30}
    model: {name: fake-scripted, answer: "fake.py:answer"}
    seeds: [0, 1]
    grid:
      shots: [0, 2]
      retriever: [random, balanced]
"""
SAMPLES = 30 * 2 * 3
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


@pytest.fixture(autouse=True)
def files_arrive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clusters of the tests are on this machine. Others are asked less often, and their files come later."""
    monkeypatch.setattr("experiments.launch.coordinator.CLUSTER_POLL_SECONDS", 0.5)
    monkeypatch.setattr("experiments.launch.coordinator.FILE_DELAY_SECONDS", 1.0)


@pytest.fixture
def grid_file(tmp_path: Path) -> Path:
    """180 samples of six cells on a fake whose speed is the environment's SLOW."""
    (tmp_path / "fake.py").write_text(FAKE)
    path = tmp_path / "grid.yaml"
    path.write_text(dedent(GRID).replace("SHAPES", f"{SHAPES}:Shapes"))
    return path


@pytest.fixture
def go(grid_file: Path, tmp_path: Path) -> Callable[..., tuple[RunOutcome, SilentProgress]]:
    """Runs the grid: (folder, overrides) -> outcome, progress."""

    def call(runs: str, *overrides: str, **more: Any) -> tuple[RunOutcome, SilentProgress]:
        progress = SilentProgress()
        return run(load_config(grid_file, overrides), tmp_path / runs, progress, **more), progress

    return call


@pytest.fixture
def icl_here(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Calls `icl` in this process, which saves imports of 3 CPU seconds: a command that no test stops or watches."""

    def call(*arguments: str, slow: float = 0.0) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(tmp_path)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SLOW", str(slow))
        capsys.readouterr()
        status = main(arguments)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return call


@pytest.fixture
def icl_process(grid_file: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `icl` in another process."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, slow: float = 0.0) -> "subprocess.Popen[str]":
        environment = {**os.environ, **ENVIRONMENT, "SLOW": str(slow)}
        command = [sys.executable, "-m", "experiments.cli.main", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        restore_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=restore_sigint, **pipes))  # noqa: PLW1509
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm of one node on this machine."""
    if why := lacking():
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
    except RuntimeError as error:
        pytest.skip(f"Slurm does not come up here: {error}")
    before = os.environ.get("SLURM_CONF")
    os.environ |= cluster.environment
    yield cluster
    cluster.command("scancel", "--user=root")
    if before is None:
        del os.environ["SLURM_CONF"]
    cluster.stop()
