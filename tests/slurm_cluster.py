"""A Slurm cluster of some nodes on this machine in its own folder: munged, slurmctld and slurmd, ended by `stop`."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,sched_interval=1
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
JobRequeue=1
ReturnToService=2
KillWait=20
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=first Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 Gres=gpu:4"


def lacking() -> str:
    """Why Slurm cannot run here, or ''."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (tests/install_slurm.sh)"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


@dataclass
class Cluster:
    """A running cluster; `environment` has the variables for its commands. Each node has a daemon of its own."""

    folder: Path
    nodes: int = 1
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Starts it. Raises RuntimeError with the end of its logs if it does not start."""
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        ports = _ports(1 + self.nodes)
        names = [f"node{number}" for number in range(self.nodes)]
        values = {
            "host": host,
            "folder": self.folder,
            "ports": ports,
            "user": "root",
            "nodes": "\n".join(
                NODE.format(name=name, host=host, port=port) for name, port in zip(names, ports[1:], strict=True)
            ),
        }
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        devices = [self.folder / f"nvidia{number}" for number in range(4)]  # Slurm wants device files
        for device in devices:
            device.symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        munge = [f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        self._run("munged", "--foreground", "--force", f"--socket={self.folder}/munge/socket", *munge)
        self._until((self.folder / "munge" / "socket").exists)
        self._run("slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for name in names:
            self._run("slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", name)
        self._until(
            lambda: self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * self.nodes
        )

    def command(self, *words: str) -> str:
        """The output of a Slurm command."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}.out").open("ab")
        more = {"env": {**os.environ, **self.environment}, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        self.processes.append(subprocess.Popen(words, preexec_fn=_die_with_parent, **more))  # noqa: PLW1509

    def _until(self, there) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 30
        while not there():
            dead = [process.args for process in self.processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                log_tails = [
                    f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in self.folder.glob("*.[ol][uo][tg]")
                ]
                self.stop()
                raise RuntimeError(f"{dead or 'too slow'}\n" + "\n".join(log_tails))
            time.sleep(0.1)


def _die_with_parent() -> None:
    """Ends the process with its parent, also if the tests are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _ports(count: int) -> list[int]:
    """Free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).absolute())
    cluster.start()
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
    try:
        cluster.processes[-1].wait()
    finally:
        cluster.stop()
