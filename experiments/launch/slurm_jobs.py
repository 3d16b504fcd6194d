"""What a Slurm job runs, and how jobs that were submitted are seen from outside."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from experiments.launch.base import WorkerStatus

if TYPE_CHECKING:
    from experiments.launch.launch_files import Launch
    from experiments.launch.worker import WorkerSession

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
WORKING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job; every other one is an end."""


class SlurmTask:
    """What a job runs: one worker. submitit pickles it, and calls `checkpoint` where the job is put back.

    leaving: a signal has ended the work. A job that is put back gets further ones, which must not cut its end short.
    """

    def __init__(self, run: str, worker: str) -> None:
        self.run, self.worker = run, worker
        self.shift: WorkerSession | None = None
        self.leaving = False

    def __call__(self) -> None:
        import submitit

        from experiments.launch.worker import run_worker

        job = str(submitit.JobEnvironment().job_id)
        self._heed(job)
        try:
            reason = run_worker(self.run, self.worker, job, self._begun)
        except KeyboardInterrupt:
            print("stopped by SIGTERM. What is finished is kept.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM) from None
        if reason:
            raise SystemExit(2)  # Slurm calls the job failed, and the reason stands in the run directory

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        self.leaving = True
        if self.shift is not None:
            self.shift.waits = True
        return DelayedSubmission(SlurmTask(self.run, self.worker))

    def _begun(self, shift: "WorkerSession") -> None:
        self.shift = shift

    def _heed(self, job: str) -> None:
        """SIGTERM: a job that Slurm still lets run is being preempted and is put back; any other one ends."""
        usual: Any = signal.getsignal(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"))

        def ended(number: int, frame: FrameType | None) -> None:
            if self.leaving:
                return
            self.leaving = True
            known = _squeue([job]) or {}
            if callable(usual) and known.get(job, ("", ""))[0] == "RUNNING":
                usual(number, frame)
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, ended)


@dataclass
class SlurmJobs:
    """Jobs of a cluster, by their numbers alone: whoever knows these can look."""

    jobs: Mapping[str, str]
    launch: "Launch"
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def cancel_command(self) -> str:
        return f"scancel {' '.join(_mains(self.jobs.values()))}"

    def poll(self) -> Mapping[str, WorkerStatus]:
        found = _squeue(self.jobs.values())
        if found is not None:  # a controller that does not answer has lost no job
            self.known = found
        return {worker: self._job(job, found is None) for worker, job in self.jobs.items()}

    def detach(self) -> str:
        return (
            f"the jobs go on ({', '.join(_mains(self.jobs.values()))}): icl watch {self.launch.folder} shows how far "
            f"they are, the same command follows them again, {self.cancel_command} ends them."
        )

    def _job(self, job: str, silent: bool) -> WorkerStatus:
        log = self.launch.logs / f"{job}_0_log.err"
        if job not in self.known:
            return WorkerStatus("running") if silent else WorkerStatus("ended", "Slurm does not know it any more", log)
        state, reason = self.known[job]
        if state not in WAITING + WORKING:
            return WorkerStatus("ended", state if reason in ("", "None") else f"{state}, {reason}", log)
        return WorkerStatus("waiting" if state in WAITING else "running", reason)


@dataclass
class LocalJobs:
    """submitit's own processes on this machine."""

    jobs: Mapping[str, str]
    launch: "Launch"
    handles: Mapping[str, Any]
    cancel_command: str = ""

    def poll(self) -> Mapping[str, WorkerStatus]:
        return {worker: self._job(worker, handle) for worker, handle in self.handles.items()}

    def detach(self) -> str:
        for handle in self.handles.values():
            handle.cancel()
        return ""

    def _job(self, worker: str, handle: Any) -> WorkerStatus:
        if not handle.done():
            return WorkerStatus("running")
        return WorkerStatus("ended", str(handle.state), self.launch.logs / f"{self.jobs[worker]}_0_log.err")


def _squeue(jobs: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """job -> (state, reason) of those that Slurm still knows; None where it does not answer."""
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(_mains(jobs))}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    lines = [line.strip().split("|", 2) for line in done.stdout.splitlines()]
    return {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}


def _mains(jobs: Iterable[str]) -> list[str]:
    """Without the places in an array."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))
