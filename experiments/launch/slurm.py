"""Launch as jobs of a Slurm cluster, through submitit (github.com/facebookincubator/submitit).

Each job has one node and one worker, or several workers that share its GPUs (`workers_per_job`). Slurm signals a job
that it preempts or that reaches its time limit (SIGTERM, or SIGUSR2 `grace` seconds before). The job then requeues
itself and continues where it was. Slurm reports how a job ended (`squeue`), so any later process can follow the jobs.
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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import FrameType
from typing import Any, Literal

from experiments.launch.base import Launch, WorkerGroup, WorkerStatus, shared_gpus_warning
from experiments.launch.machines import visible_gpus, worker_environments
from experiments.launch.worker import WorkerSession, run_worker
from icl import ConfigError, Count, PlanError, PositiveInt, component, later_parameter

RESERVED_OPTIONS = ("array", "error", "job-name", "nodes", "open-mode", "output", "signal", "time", "wckey")
"""Options of sbatch that other parameters set."""


WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
WORKING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job. In every other state it has ended."""


@component("launcher", "slurm")
@dataclass(frozen=True)
class Slurm:
    """Jobs of a Slurm cluster that share the grid, through submitit (the extra `slurm`)."""

    partition: str = ""  # partition of the cluster; empty: its default
    nodes: PositiveInt = 1  # number of jobs, each on one node
    workers_per_job: PositiveInt = 1  # workers of each job, which divide its GPUs: 8 with `gpus: 8` have one each
    gpus: Count | str = 0  # GPUs of each job, or with a type: a100:2
    time: PositiveInt | str = 60  # time limit of each job, in minutes or in Slurm's format (1-12:00:00)
    account: str = ""  # account to charge
    qos: str = ""  # quality of service
    mem: str = ""  # memory of each job, such as 32G; empty: the partition's default
    cpus: Count = 0  # CPU cores of each worker; 0: the partition's default
    args: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # other options of sbatch by their names
    setup: tuple[str, ...] = ()  # shell lines that run before a worker starts, such as module load cuda
    srun: tuple[str, ...] = later_parameter(())  # options of srun, such as --container-image=mm-icl.sqsh of pyxis
    python: str = later_parameter("")  # a worker's Python, such as apptainer exec --nv mm-icl.sif python3; empty: this
    array: bool = True  # true: one job array; false: separate jobs
    at_once: Count = 0  # largest number of jobs of the array that run at the same time; 0: all
    grace: PositiveInt = 90  # seconds before the time limit at which a job is signaled to requeue itself
    requeue: Count = 10  # times that a job that reaches its time limit is requeued
    wait: bool = True  # false: submit the jobs, print their names and end
    cluster: Literal["slurm", "local"] = "slurm"  # local: processes of submitit on this machine, to test a file

    def __post_init__(self) -> None:
        if self.grace >= 60 * minutes(self.time):
            raise ConfigError(f"grace: {self.grace} seconds must be less than the time limit.")
        for name in self.args:
            if flag(name) in RESERVED_OPTIONS:
                raise ConfigError(f"args: {name} is set by the launcher itself.")

    @property
    def workers(self) -> int:
        return self.nodes * self.workers_per_job

    @property
    def warning(self) -> str:
        """A sentence if a job has more workers than GPUs."""
        number = str(self.gpus).rpartition(":")[2]
        gpus = int(number) if number.isdigit() else int(bool(number))  # a type alone is one GPU
        return shared_gpus_warning(self.workers_per_job, gpus, "launcher.workers_per_job")

    def check(self) -> None:
        if find_spec("submitit") is None:
            raise PlanError(
                'launcher=slurm needs the package submitit, which is not installed: pip install "mm-icl[slurm]".'
            )
        for command in ("sbatch", "srun", "squeue") if self.cluster == "slurm" else ():
            if shutil.which(command) is None:
                raise PlanError(
                    f"launcher=slurm: there is no {command} on this machine. Run icl where jobs can be "
                    "submitted (a login node), or use several processes on this machine: launcher.workers=2."
                )

    def start(self, launch: Launch) -> WorkerGroup:
        import submitit

        python = f"{self.python or shlex.quote(sys.executable)} -P"
        executor = submitit.AutoExecutor(
            launch.logs.absolute(),
            cluster=self.cluster,
            slurm_max_num_timeout=self.requeue,
            local_max_num_timeout=self.requeue,
            slurm_python=python,
            local_python=python,
        )
        executor.update_parameters(**self._parameters(launch))
        groups = [
            launch.workers[start : start + self.workers_per_job]
            for start in range(0, len(launch.workers), self.workers_per_job)
        ]
        tasks = [SlurmTask(str(launch.folder.absolute()), group) for group in groups]
        try:
            with redirect_stderr(io.StringIO()):  # submitit also prints what it raises
                if self.array and self.cluster == "slurm" and len(tasks) > 1:
                    with executor.batch():
                        jobs = [executor.submit(task) for task in tasks]
                else:
                    jobs = [executor.submit(task) for task in tasks]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            raise PlanError(f"launcher=slurm: Slurm rejects the job: {_slurm_messages(str(error)) or error}") from error
        job_of = {worker: job for group, job in zip(groups, jobs, strict=True) for worker in group}
        ids = {worker: str(job.job_id) for worker, job in job_of.items()}
        if self.cluster == "local":
            return LocalJobs(ids, launch, job_of)
        return SlurmJobs(ids, launch)

    def reattach(self, launch: Launch) -> WorkerGroup | None:
        return SlurmJobs(dict(launch.jobs), launch) if launch.jobs and self.cluster == "slurm" else None

    def _parameters(self, launch: Launch) -> dict[str, Any]:
        name = f"icl-{launch.folder.name}"
        if self.cluster == "local":
            return {"name": name, "timeout_min": minutes(self.time), "tasks_per_node": self.workers_per_job}
        setup = ["export PYTHONSAFEPATH=1"]  # a file next to the user's config must not hide a package
        if self.cpus:
            setup.append(f"export SRUN_CPUS_PER_TASK={self.cpus}")
        return {
            "name": name,
            "timeout_min": minutes(self.time),
            "nodes": 1,
            "tasks_per_node": self.workers_per_job,
            "slurm_partition": self.partition or None,
            "slurm_gpus_per_node": self.gpus or None,
            "slurm_account": self.account or None,
            "slurm_qos": self.qos or None,
            "slurm_mem": self.mem or None,
            "cpus_per_task": self.cpus or None,
            "slurm_array_parallelism": self.at_once or self.nodes,
            "slurm_signal_delay_s": self.grace,
            "slurm_setup": [*setup, *self.setup],
            "slurm_srun_args": list(self.srun) or None,
            "slurm_additional_parameters": {flag(name): value for name, value in self.args.items()} or None,
        }


class SlurmTask:
    """The task of a job: one worker. submitit pickles it, and calls `checkpoint` if the job is requeued.

    A job with several workers runs the same task once for each. A task takes the worker of its number in the job.

    Attributes:
        workers: The workers of the job.
        session: The worker's session, once it has started.
        is_stopping: Whether a signal has ended the work. A requeued job gets further signals, which are ignored.
        ending: What submitit raised when it requeued the job.
    """

    def __init__(self, run: str, workers: Sequence[str]) -> None:
        self.run, self.workers = run, tuple(workers)
        self.session: WorkerSession | None = None
        self.is_stopping = False
        self.ending: BaseException | None = None

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        if environment.local_rank >= len(self.workers):  # the last job of an array may have fewer workers
            return
        os.environ.update(task_environment(environment.local_rank, len(self.workers)))
        job = str(environment.job_id)
        self._handle_signals(job)
        try:
            reason = run_worker(self.run, self.workers[environment.local_rank], job, self._set_session)
        except KeyboardInterrupt:
            if self.ending is not None:
                raise self.ending from None
            print("stopped by SIGTERM. What is finished is kept.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM) from None
        if reason:
            raise SystemExit(2)  # Slurm reports the job as failed; the reason is in the run directory

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(SlurmTask(self.run, self.workers))

    def _set_session(self, session: WorkerSession) -> None:
        self.session = session

    def _handle_signals(self, job: str) -> None:
        """Ends the work on the preemption signal and on SIGTERM, and requeues the job if Slurm will run it again.

        Submitit requeues the job and raises SystemExit. The handler raises KeyboardInterrupt instead, because any other
        exception in a user's component counts as an error of the component.
        """
        preemption = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue: Any = signal.getsignal(preemption)

        def stop(number: int, frame: FrameType | None) -> None:
            if self.is_stopping:
                return
            self.is_stopping = True
            is_running = number == preemption or (_squeue([job]) or {}).get(job, ("", ""))[0] == "RUNNING"
            if callable(requeue) and is_running:  # Slurm does not call a job running that it ends for good
                self.ending = SystemExit(0)  # if this does nothing: the first task of the job requeues it for all
                try:
                    requeue(number, frame)
                except (Exception, SystemExit) as error:  # noqa: BLE001  raised again when the work has ended
                    self.ending = error
                if self.session is not None:
                    self.session.will_restart = isinstance(self.ending, SystemExit)
            raise KeyboardInterrupt

        for number in (signal.SIGTERM, preemption):
            signal.signal(number, stop)


def task_environment(rank: int, count: int) -> dict[str, str]:
    """Environment variables of one of `count` workers of a job: its part of the job's GPUs and cores.

    Must be set before anything starts CUDA.
    """
    if count == 1:
        return {}
    own = worker_environments(count, visible_gpus())[rank]
    cores = os.environ.get("SLURM_CPUS_PER_TASK")  # cores are divided already
    return own | {"OMP_NUM_THREADS": cores} if cores and "OMP_NUM_THREADS" in own else own


@dataclass
class SlurmJobs:
    """Workers as jobs of a Slurm cluster. Any process that has the numbers of the jobs can follow them."""

    jobs: Mapping[str, str]
    launch: Launch
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    """job -> (state, reason), as Slurm reported last."""

    @property
    def cancel_command(self) -> str:
        return f"scancel {' '.join(_array_jobs(self.jobs.values()))}"

    def poll(self) -> Mapping[str, WorkerStatus]:
        states = _squeue(self.jobs.values())
        if states is not None:  # jobs go on while the controller does not answer
            self.states = states
        return {
            worker: self._status(job, task, states is not None)
            for worker, job, task in zip(self.jobs, self.jobs.values(), task_numbers(self.jobs), strict=True)
        }

    def detach(self) -> str:
        return (
            f"the jobs continue ({', '.join(_array_jobs(self.jobs.values()))}): "
            f"icl show {self.launch.folder} --follow shows their progress, the same command follows them again, "
            f"{self.cancel_command} ends them."
        )

    def _status(self, job: str, task: int, has_answered: bool) -> WorkerStatus:
        log = self.launch.logs / f"{job}_{task}_log.err"
        if job not in self.states:
            ended = WorkerStatus("ended", "Slurm does not know it any more", log)
            return ended if has_answered else WorkerStatus("running")
        state, reason = self.states[job]
        if state not in WAITING + WORKING:
            return WorkerStatus("ended", state if reason in ("", "None") else f"{state}, {reason}", log)
        return WorkerStatus("waiting" if state in WAITING else "running", reason)


@dataclass
class LocalJobs:
    """Workers as processes of this machine that submitit starts."""

    jobs: Mapping[str, str]
    launch: Launch
    handles: Mapping[str, Any]
    cancel_command: str = ""

    def poll(self) -> Mapping[str, WorkerStatus]:
        return {
            worker: self._status(worker, handle, task)
            for (worker, handle), task in zip(self.handles.items(), task_numbers(self.jobs), strict=True)
        }

    def detach(self) -> str:
        for handle in self.handles.values():
            handle.cancel()
        return ""

    def _status(self, worker: str, handle: Any, task: int) -> WorkerStatus:
        if not handle.done():
            return WorkerStatus("running")
        return WorkerStatus("ended", str(handle.state), self.launch.logs / f"{self.jobs[worker]}_{task}_log.err")


def task_numbers(jobs: Mapping[str, str]) -> list[int]:
    """For each worker, its number among the workers of its job."""
    numbers, counts = [], Counter[str]()
    for job in jobs.values():
        numbers.append(counts[job])
        counts[job] += 1
    return numbers


def _squeue(jobs: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """job -> (state, reason) of the jobs that Slurm still knows; None if it does not answer."""
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--format=%i|%T|%r",
        f"--jobs={','.join(_array_jobs(jobs))}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    lines = [line.strip().split("|", 2) for line in done.stdout.splitlines()]
    return {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}


def _array_jobs(jobs: Iterable[str]) -> list[str]:
    """The jobs' numbers without their places in an array."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))


def minutes(time: int | str) -> int:
    """The minutes of a time limit in Slurm's formats: m, m:s, h:m:s, days-h, days-h:m, days-h:m:s."""
    if isinstance(time, int):
        return time
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not match:
        raise ConfigError(
            "time: the limit must be a number of minutes, or a time in Slurm's format (2:00:00, 1-12:00), not "
            f"{time!r}."
        )
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, more, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, more, seconds = numbers
    else:
        hours, (more, seconds) = 0, (*numbers, 0)[:2]
    whole = math.ceil(int(days or 0) * 1440 + hours * 60 + more + seconds / 60)
    if whole < 1:
        raise ConfigError("time: the limit must be at least one minute.")
    return whole


def flag(name: str) -> str:
    """The name of an option of sbatch without its dashes."""
    return name.lstrip("-").replace("_", "-")


def _slurm_messages(text: str) -> str:
    """The lines that Slurm's commands printed."""
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line.startswith(("sbatch:", "srun:", "slurm")))
