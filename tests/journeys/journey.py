"""What a user has: a folder of his own, commands, and the files of a run."""

import os
import subprocess
import sys
from pathlib import Path

from forked import call_forked

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a shell in which the environment of the toolkit is active."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "COLUMNS": "120",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / ".ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def call(folder: Path, *command: str, status: int = 0, fresh: bool = False) -> str:
    """The output of a command in a process of its own. fresh: a new interpreter, which imports all libraries itself."""
    done = (
        subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=300
        )
        if fresh
        else call_forked(command, folder, environment(folder))
    )
    assert done.returncode == status, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def stored(run: Path) -> int:
    """The number of stored samples, also those of cells that the config no longer has."""
    return sum(path.read_bytes().count(b"\n") for path in run.glob("cells/*/*.jsonl"))
