"""The cost of the runner: CPU time of a sample, of a finished run, and memory against the number of samples.

The model is a fake that answers at once, so what is measured is retrieval, composing, scoring, baselines and writing.
Times are CPU seconds: the median over rounds, with minimum and maximum. `python -m lab.bench.runner` prints
the rows.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from lab.bench import Row, rounds
from lab.bench.timing import children_cpu_seconds, cpu_rounds, with_spread

GRID: Mapping[str, Any] = {
    "model": "fake-vote",
    "seeds": [0, 1, 2],
    "grid": {"shots": [0, 2, 4, 8], "retriever": ["random", "balanced"], "composer": ["chat", "interleaved"]},
}
"""42 cells."""
QUERIES = 240
"""10,080 samples."""


def rows() -> list[Row]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        return [_overhead(runs), _resume(runs), _memory(runs)]


def _overhead(runs: Path) -> Row:
    """The difference of two sizes, so that costs of the run (loading the task, decoding images) do not count."""
    small, large = cpu_rounds([partial(_run, runs, queries, count()) for queries in (40, QUERIES)], 3)
    each = [1000 * (b - a) / (42 * (QUERIES - 40)) for a, b in zip(small, large, strict=True)]
    return "runner overhead a sample (fake model, binding)", with_spread(each, " ms"), "<= 1 ms"


def _run(runs: Path, queries: int, numbers: Iterator[int]) -> None:
    from experiments.config.config import load_config
    from experiments.running.run import run

    name = f"time-{queries}-{next(numbers)}"
    outcome = run(load_config({**GRID, "name": name, "task": {"name": "binding", "queries": queries}}), runs)
    assert outcome.computed == 42 * queries, outcome


def _resume(runs: Path) -> Row:
    """The whole process of `icl run` on the finished run of 10,080 samples, imports included."""
    file = _file(runs, f"time-{QUERIES}-0", QUERIES)
    command = [sys.executable, "-m", "experiments.cli.main", "run", str(file), "--runs", str(runs)]

    def again() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("nothing to do (10,080 samples present)"), done.stdout

    seconds = [children_cpu_seconds(again) for _ in range(rounds(3))]
    return "icl run on a finished grid of 10,080 samples", with_spread(seconds, " s"), "< 2 s"


PEAK = """
import resource, sys
from pathlib import Path
from experiments.config.config import load_config
from experiments.running.run import run

run(load_config(Path(sys.argv[1])), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _memory(runs: Path) -> Row:
    """The growth of peak memory with 8 times the samples."""
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
        print(f"{what:<55} {figure:>36}   {goal}")
