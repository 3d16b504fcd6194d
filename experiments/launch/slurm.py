"""Launch as jobs of a Slurm cluster, through submitit (github.com/facebookincubator/submitit).

Each worker is a job of one node. A job that Slurm preempts, or that reaches its time limit, is warned (SIGUSR2 `grace`
seconds before, or SIGTERM), puts itself back into the queue, and goes on where it was. Slurm itself knows how a job
ended (`squeue`), so jobs can be followed by any later process, and nothing of them is lost with the first one.
"""

import io
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from experiments.launch.base import Crew, Job
from icl.errors import ConfigError, PlanError
from icl.params import Count, PositiveInt
from icl.registry import component

if TYPE_CHECKING:
    from experiments.launch.folder import Launch
    from experiments.launch.worker import Shift

OURS = ("array", "error", "job-name", "nodes", "open-mode", "output", "signal", "time", "wckey")
"""Options of sbatch that are set from the other parameters."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
WORKING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job; every other one is an end."""


@component("launcher", "slurm")
@dataclass(frozen=True)
class Slurm:
    """Jobs of a Slurm cluster that share the grid, through submitit (the extra `slurm`)."""

    partition: str = ""  # of the cluster; empty: its default
    nodes: PositiveInt = 1  # jobs, each one worker on one node; several may fit on one machine, as Slurm sees fit
    gpus: Count | str = 0  # of each job; or with their type, as a100:2
    time: PositiveInt | str = 60  # limit of each job, in minutes or as Slurm writes it (1-12:00:00)
    account: str = ""  # that is charged
    qos: str = ""  # quality of service
    mem: str = ""  # memory of each job, such as 32G; empty: the partition's default
    cpus: Count = 0  # cores of each job; 0: the partition's default
    args: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # any other option of sbatch by its name
    setup: tuple[str, ...] = ()  # lines of shell before a worker starts, such as module load cuda
    array: bool = True  # one job array, or jobs of their own
    at_once: Count = 0  # jobs of the array that run at the same time; 0: all
    grace: PositiveInt = 90  # seconds before the time limit in which a job is told to put itself back into the queue
    requeue: Count = 10  # times that a job which has reached its time limit is put back
    wait: bool = True  # false: submit, say what the jobs are called, and end
    cluster: Literal["slurm", "local"] = "slurm"  # local: submitit's own processes on this machine, to try a file

    def __post_init__(self) -> None:
        minutes(self.time)
        for name in self.args:
            if flag(name) in OURS:
                raise ConfigError(f"args: {name} is set by the launcher itself.")

    @property
    def workers(self) -> int:
        return self.nodes

    def check(self) -> None:
        if find_spec("submitit") is None:
            raise PlanError(
                'launch=slurm needs the package submitit, which is not installed: pip install "mm-icl[slurm]".'
            )
        for command in ("sbatch", "srun", "squeue") if self.cluster == "slurm" else ():
            if shutil.which(command) is None:
                raise PlanError(
                    f"launch=slurm: there is no {command} on this machine. Give the command where jobs can be "
                    "submitted (a login node), or share the grid among processes of this machine: launch.workers=2."
                )

    def start(self, launch: "Launch") -> Crew:
        import submitit

        python = f"{shlex.quote(sys.executable)} -P"
        executor = submitit.AutoExecutor(
            launch.logs.absolute(),
            cluster=self.cluster,
            slurm_max_num_timeout=self.requeue,
            local_max_num_timeout=self.requeue,
            slurm_python=python,
            local_python=python,
        )
        executor.update_parameters(**self._parameters(launch))
        works = [Work(str(launch.folder.absolute()), worker) for worker in launch.workers]
        said = io.StringIO()
        try:
            with redirect_stderr(said):  # submitit repeats there what it raises
                if self.array and self.cluster == "slurm" and len(works) > 1:
                    with executor.batch():
                        jobs = [executor.submit(work) for work in works]
                else:
                    jobs = [executor.submit(work) for work in works]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            raise PlanError(f"launch=slurm: Slurm refuses the job: {_words(str(error)) or error}") from error
        ids = {worker: str(job.job_id) for worker, job in zip(launch.workers, jobs, strict=True)}
        if self.cluster == "local":
            return Tried(ids, launch, dict(zip(launch.workers, jobs, strict=True)))
        return Queue(ids, launch)

    def again(self, launch: "Launch") -> Crew | None:
        return Queue(dict(launch.jobs), launch) if launch.jobs and self.cluster == "slurm" else None

    def _parameters(self, launch: "Launch") -> dict[str, Any]:
        name = f"icl-{launch.folder.name}"
        if self.cluster == "local":
            return {"name": name, "timeout_min": minutes(self.time)}
        setup = ["export PYTHONSAFEPATH=1"]  # a file beside the user's config stands before no package
        if self.cpus:
            setup.append(f"export SRUN_CPUS_PER_TASK={self.cpus}")
        return {
            "name": name,
            "timeout_min": minutes(self.time),
            "nodes": 1,
            "tasks_per_node": 1,
            "slurm_partition": self.partition or None,
            "slurm_gpus_per_node": self.gpus or None,
            "slurm_account": self.account or None,
            "slurm_qos": self.qos or None,
            "slurm_mem": self.mem or None,
            "cpus_per_task": self.cpus or None,
            "slurm_array_parallelism": self.at_once or len(launch.workers),
            "slurm_signal_delay_s": self.grace,
            "slurm_setup": [*setup, *self.setup],
            "slurm_additional_parameters": {flag(name): value for name, value in self.args.items()} or None,
        }


class Work:
    """What a job runs: one worker. submitit pickles it, and calls `checkpoint` where the job is put back."""

    def __init__(self, run: str, worker: str) -> None:
        self.run, self.worker = run, worker
        self.shift: Shift | None = None

    def __call__(self) -> None:
        import submitit

        from experiments.launch.worker import work

        job = str(submitit.JobEnvironment().job_id)
        self._heed(job)
        try:
            reason = work(self.run, self.worker, job, self._begun)
        except KeyboardInterrupt:
            print("stopped by SIGTERM. What is finished is kept.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM) from None
        if reason:
            raise SystemExit(2)  # Slurm calls the job failed, and the reason stands in the run directory

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        if self.shift is not None:
            self.shift.waits = True
        return DelayedSubmission(Work(self.run, self.worker))

    def _begun(self, shift: "Shift") -> None:
        self.shift = shift

    def _heed(self, job: str) -> None:
        """SIGTERM: a job that Slurm still lets run is being preempted and is put back; any other one ends."""
        usual: Any = signal.getsignal(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"))

        def ended(number: int, frame: FrameType | None) -> None:
            known = _squeue([job]) or {}
            if callable(usual) and known.get(job, ("", ""))[0] == "RUNNING":
                usual(number, frame)
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, ended)


@dataclass
class Queue:
    """Jobs of a cluster, by their numbers alone: whoever knows these can look."""

    jobs: Mapping[str, str]
    launch: "Launch"
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        return f"scancel {' '.join(_mains(self.jobs.values()))}"

    def look(self) -> Mapping[str, Job]:
        found = _squeue(self.jobs.values())
        if found is not None:  # a controller that does not answer has lost no job
            self.known = found
        return {worker: self._job(job, found is None) for worker, job in self.jobs.items()}

    def leave(self) -> str:
        return (
            f"the jobs go on ({', '.join(_mains(self.jobs.values()))}): icl watch {self.launch.folder} shows how far "
            f"they are, the same command follows them again, {self.ending} ends them."
        )

    def _job(self, job: str, silent: bool) -> Job:
        log = self.launch.logs / f"{job}_0_log.err"
        if job not in self.known:
            return Job("running") if silent else Job("ended", "Slurm does not know it any more", log)
        state, reason = self.known[job]
        if state not in WAITING + WORKING:
            return Job("ended", state if reason in ("", "None") else f"{state}, {reason}", log)
        return Job("waiting" if state in WAITING else "running", reason)


@dataclass
class Tried:
    """submitit's own processes on this machine."""

    jobs: Mapping[str, str]
    launch: "Launch"
    handles: Mapping[str, Any]
    ending: str = ""

    def look(self) -> Mapping[str, Job]:
        return {worker: self._job(worker, handle) for worker, handle in self.handles.items()}

    def leave(self) -> str:
        for handle in self.handles.values():
            handle.cancel()
        return ""

    def _job(self, worker: str, handle: Any) -> Job:
        if not handle.done():
            return Job("running")
        return Job("ended", str(handle.state), self.launch.logs / f"{self.jobs[worker]}_0_log.err")


def minutes(time: int | str) -> int:
    """Of a time limit as Slurm writes it: minutes, minutes:seconds, h:m:s, days-h, days-h:m, days-h:m:s."""
    if isinstance(time, int):
        return time
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not found:
        raise ConfigError(
            f"time: a limit is a number of minutes, or as Slurm writes it (2:00:00, 1-12:00), not {time!r}."
        )
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, more, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, more, seconds = numbers
    else:
        hours, (more, seconds) = 0, (*numbers, 0)[:2]
    whole = math.ceil(int(days or 0) * 1440 + hours * 60 + more + seconds / 60)
    if whole < 1:
        raise ConfigError("time: a limit is at least a minute.")
    return whole


def flag(name: str) -> str:
    """An option of sbatch as it is written after its dashes."""
    return name.lstrip("-").replace("_", "-")


def _squeue(jobs: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """job -> (state, reason) of those that Slurm still knows; None where it does not answer."""
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(_mains(jobs))}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    lines = [line.strip().split("|", 2) for line in done.stdout.splitlines()]
    return {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}


def _mains(jobs: Iterable[str]) -> list[str]:
    """Without the places in an array."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def _words(text: str) -> str:
    """What Slurm's commands said."""
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line.startswith(("sbatch:", "srun:", "slurm")))
