"""Launch as jobs of a Slurm cluster, through submitit (github.com/facebookincubator/submitit).

Each job has one node and one worker, or several workers that share its GPUs (`workers_per_job`). Slurm signals a job
that it preempts or that reaches its time limit (SIGTERM, or SIGUSR2 `grace` seconds before). The job then requeues
itself and continues where it was. Slurm reports how a job ended (`squeue`), so any later process can follow the jobs.
"""

import io
import math
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from experiments.launch.base import WorkerGroup, shared_gpus_warning
from experiments.launch.slurm_jobs import LocalJobs, SlurmJobs, SlurmTask
from icl.constraints import Count, PositiveInt
from icl.errors import ConfigError, PlanError
from icl.registry import component, later_parameter

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch

RESERVED_OPTIONS = ("array", "error", "job-name", "nodes", "open-mode", "output", "signal", "time", "wckey")
"""Options of sbatch that other parameters set."""


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

    def start(self, launch: "Launch") -> WorkerGroup:
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

    def reattach(self, launch: "Launch") -> WorkerGroup | None:
        return SlurmJobs(dict(launch.jobs), launch) if launch.jobs and self.cluster == "slurm" else None

    def _parameters(self, launch: "Launch") -> dict[str, Any]:
        name = f"icl-{launch.folder.name}"
        if self.cluster == "local":
            return {"name": name, "timeout_min": minutes(self.time), "tasks_per_node": self.workers_per_job}
        setup = ["export PYTHONSAFEPATH=1"]  # a file beside the user's config must not hide a package
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
