"""The check of launchers runs real workers, and names the rule that a launcher breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster

from experiments.launch import conformance
from experiments.launch.base import Launch, WorkerGroup, WorkerStatus
from experiments.launch.conformance import check_launcher
from experiments.launch.machines import Local, ProcessGroup
from experiments.launch.slurm import Slurm
from icl.registry import build

OWN = '''
"""A user's launcher that starts processes of this machine."""
from dataclasses import dataclass

from experiments.launch.machines import Local

@dataclass(frozen=True)
class Mine(Local):
    """Two processes."""
    processes: int = 2
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_processes_of_this_machine_pass_and_leave_no_files(here: Path) -> None:
    facts = check_launcher(Local(3))
    assert (facts.workers, facts.samples, facts.detach_message, facts.follows, facts.not_started) == (
        3,
        32,
        "",
        False,
        "",
    )
    assert list(here.iterdir()) == []
    assert facts.describe().startswith("3 workers, 32 samples as one process writes them, in ")


def test_jobs_of_slurm_pass(slurm: Cluster) -> None:
    facts = check_launcher(Slurm(nodes=2, time=5))
    assert (facts.workers, facts.follows, facts.not_started) == (2, True, "")
    assert "scancel" in facts.detach_message


def test_the_command_checks_a_users_launcher(here: Path, icl_process: Callable[..., Any]) -> None:
    (here / "studies").mkdir()
    (here / "studies" / "mine.py").write_text(OWN)
    out, err = icl_process("check", "studies/mine.py:Mine").communicate(timeout=120)
    assert err == ""
    assert out.startswith(
        "launcher 'studies/mine.py:Mine' fulfills the contract that every launcher must keep.\n2 workers, 32 samples"
    )


def test_a_launcher_that_starts_no_worker_is_reported_with_the_reason() -> None:
    assert check_launcher(Local()).describe().startswith("nothing was started: one process computes the whole run")


@dataclass(frozen=True)
class Broken(Local):
    """Two processes that break a rule. how: which rule."""

    processes: int = 2
    how: str = ""

    def start(self, launch: Launch) -> WorkerGroup:
        if self.how == "starts nothing":
            return StartsNothing(dict.fromkeys(launch.workers), launch.logs)  # type: ignore[arg-type]
        group = super().start(launch)
        assert isinstance(group, ProcessGroup)
        return KINDS[self.how](group.processes, group.logs)


@dataclass(frozen=True)
class Unstable(Broken):
    """Has another parameter each time that it is built from the same file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "how", f"{self.how}!")


class StartsNothing(ProcessGroup):
    @property
    def jobs(self) -> dict[str, str]:
        return dict.fromkeys(self.processes, "nobody")

    def poll(self) -> dict[str, WorkerStatus]:
        return dict.fromkeys(self.processes, WorkerStatus("running"))

    def detach(self) -> str:
        return ""


class ReportsOne(ProcessGroup):
    def poll(self) -> dict[str, WorkerStatus]:
        return dict(list(super().poll().items())[:1])

    def __del__(self) -> None:
        self.detach()


class ReportsRunning(ProcessGroup):
    def detach(self) -> str:
        return ""

    def poll(self) -> dict[str, WorkerStatus]:
        return {w: replace(job, state="running") if self._is_detached(w) else job for w, job in super().poll().items()}

    def _is_detached(self, worker: str) -> bool:
        """Whether the workers are those of the run that is detached from."""
        return self.logs.parents[1].name == "left"


KINDS: dict[str, type[ProcessGroup]] = {"reports one": ReportsOne, "reports running": ReportsRunning}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("starts nothing", r"Broken: its workers did not come to an end in 0.5 s \(\S+-1 running, \S+-2 running\)"),
        ("reports one", r"Broken: poll\(\) reports \['\S+-1'\], and the jobs are \['\S+-1', '\S+-2'\]"),
        ("reports running", r"Broken: poll\(\) does not report that the jobs of \[.*\] have ended"),
    ],
)
def test_a_broken_rule_is_a_sentence(how: str, why: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "STATUS_TIMEOUT", 2.0)
    launcher = build("launcher", {"name": f"{Path(__file__)}:Broken", "how": how})
    with pytest.raises(AssertionError, match=why):
        check_launcher(launcher, patience=0.5 if how == "starts nothing" else 60)
    assert how == "reports running" or list(here.iterdir()) == []


def test_a_launcher_that_changes_when_it_is_read_again_is_reported() -> None:
    launcher = build("launcher", {"name": f"{Path(__file__)}:Unstable", "how": "reports one"})
    with pytest.raises(AssertionError, match="changes when it is read from a run directory"):
        check_launcher(launcher)
