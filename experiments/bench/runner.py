"""What the runner itself costs: time a sample, a finished run looked at again, memory against the number of samples.

The model is a fake that answers at once, so what is measured is ours: retrieval, composing, scoring, baselines and
writing. `python -m experiments.bench.runner` prints the rows.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.bench import Row, rounds

GRID: Mapping[str, Any] = {
    "model": "fake-vote",
    "seeds": [0, 1, 2],
    "grid": {"shots": [0, 2, 4, 8], "retriever": ["random", "balanced"], "composer": ["chat", "interleaved"]},
}
"""42 cells; 240 queries make 10,080 samples."""


def rows() -> list[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        return [_overhead(runs), _resume(runs), _memory(runs)]


def _overhead(runs: Path) -> Row:
    """Two sizes, so that what a run costs once (loading the task, decoding the pool's images) is not a sample's."""
    seconds = {queries: _run_seconds(runs, f"time-{queries}", queries) for queries in (40, 240)}
    more = 42 * (240 - 40)
    each = (seconds[240] - seconds[40]) / more
    return "runner overhead a sample (fake model, binding)", f"{1000 * each:.2f} ms", "<= 1 ms"


def _run_seconds(runs: Path, name: str, queries: int) -> float:
    from experiments.config.config import load_config
    from experiments.running.run import run

    config = load_config({**GRID, "name": name, "task": {"name": "binding", "queries": queries}})
    start = time.perf_counter()
    outcome = run(config, runs)
    assert outcome.computed == 42 * queries, outcome
    return time.perf_counter() - start


def _resume(runs: Path) -> Row:
    """The whole process of `icl run` on the finished run of 10,080 samples, imports and all; the best of three."""
    file = _file(runs, "time-240", 240)
    best = min(_seconds(file, runs) for _ in range(rounds(3)))
    return "icl run on a finished grid of 10,080 samples", f"{best:.2f} s", "< 2 s"


def _seconds(file: Path, runs: Path) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "experiments.cli.main", "run", str(file), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nothing to do (10,080 samples present)"), done.stdout
    return time.perf_counter() - start


PEAK = """
import resource, sys
from pathlib import Path
from experiments.config.config import load_config
from experiments.running.run import run

run(load_config(Path(sys.argv[1])), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _memory(runs: Path) -> Row:
    """Peak memory of a process with 8 times the samples, over that with one time."""
    peaks = []
    for seeds in (2, 16):
        file = _file(runs, f"memory-{seeds}", 60, list(range(seeds)))
        command = [sys.executable, "-c", PEAK, str(file), str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / (2**20 if sys.platform == "darwin" else 2**10))
    figure = f"{peaks[1] - peaks[0]:+.0f} MiB of {peaks[0]:.0f} MiB"
    return "peak memory of 8 times the samples (840 to 13,440)", figure, "bounded by the batch"


def _file(runs: Path, name: str, queries: int, seeds: list[int] | None = None) -> Path:
    config: dict[str, Any] = {**GRID, "name": name, "task": {"name": "binding", "queries": queries}}
    path = runs / f"{name}.yaml"
    path.write_text(json.dumps(config | ({"seeds": seeds} if seeds else {})))
    return path


if __name__ == "__main__":
    for what, figure, goal in rows():
        print(f"{what:<55} {figure:>22}   {goal}")
