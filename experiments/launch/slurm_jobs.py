"""The task of a Slurm job, and the status of submitted jobs."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from experiments.launch.base import WorkerStatus
from experiments.launch.local import visible_gpus, worker_environments

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch
    from experiments.launch.worker import WorkerSession

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
WORKING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job. In every other state it has ended."""


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

        from experiments.launch.worker import run_worker

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

        self.is_stopping = True
        if self.session is not None:
            self.session.will_restart = True
        return DelayedSubmission(SlurmTask(self.run, self.workers))

    def _set_session(self, session: "WorkerSession") -> None:
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
                try:
                    requeue(number, frame)
                except (Exception, SystemExit) as error:  # noqa: BLE001  raised again when the work has ended
                    self.ending = error
                    if self.session is not None:
                        self.session.will_restart = isinstance(error, SystemExit)
                else:  # the first task of the job requeues it for all
                    self.ending = SystemExit(0)
                    if self.session is not None:
                        self.session.will_restart = True
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
    launch: "Launch"
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
            f"the jobs continue ({', '.join(_array_jobs(self.jobs.values()))}): icl watch {self.launch.folder} shows "
            f"their progress, the same command follows them again, {self.cancel_command} ends them."
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
    launch: "Launch"
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
