"""CPU time of the commands that read a finished run of 33,600 samples.

Each command runs in a process of its own, imports included. Times are CPU seconds: the median over rounds, with minimum
and maximum. `python -m lab.bench reading` prints the rows.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from lab.bench import Row, rounds
from lab.bench.runner import GRID
from lab.bench.timing import children_cpu_seconds, with_spread

QUERIES = 800
"""33,600 samples in the 42 cells of the grid."""
ROUNDS = 3
COMMANDS = (
    ("compare", "--to", "shots=0", "--by", "composer"),
    ("report",),
    ("analyze", "copying"),
    ("show",),
)


def rows() -> list[Row]:
    """A row per command."""
    from experiments.config.config import load_config
    from experiments.running.run import run

    task = {"name": "binding", "queries": QUERIES // (20 if rounds(2) == 1 else 1)}
    with tempfile.TemporaryDirectory() as folder:
        done = run(load_config({**GRID, "name": "reading", "task": task}), Path(folder))
        samples = f"{done.samples:,} samples"
        return [
            (f"icl {words[0]} on {samples}", with_spread(_seconds(words, done.folder), " s"), "<= 3 s")
            for words in COMMANDS
        ]


def _seconds(words: tuple[str, ...], folder: Path) -> list[float]:
    name, *rest = words
    command = [sys.executable, "-m", "experiments.cli.main", name, str(folder), *rest]
    return [
        children_cpu_seconds(lambda: subprocess.run(command, capture_output=True, check=True))
        for _ in range(rounds(ROUNDS))
    ]
