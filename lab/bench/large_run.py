"""CPU time and memory of `icl report` on a run of up to a million samples.

`python -m lab.bench.large_run RUN FOLDER [--samples N]` writes FOLDER, a copy of the finished run RUN. Each
sample is repeated under new ids of queries and groups and with its own prompt, until FOLDER has N samples. Then two
reports are measured: the first makes the columnar cache, the second reads it. A million samples need 2 GB of disk.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from experiments.store.store import Store
from lab.bench.timing import children_cpu_seconds

SAMPLES = 1_000_000


def enlarge(source: Path, target: Path, samples: int) -> int:
    """Writes the enlarged copy of a run, and returns its number of samples."""
    store, large = Store(source), Store(target)
    info = store.read_run() or {}
    cells = {digest: list(store.samples(digest)) for digest in info["cells"]}
    per_cell = -(-samples // len(cells))
    large.write_run(info)
    for digest, lines in cells.items():
        large.write_cell(digest, store.read_cell(digest) or {})
        rest = per_cell
        with (large.cell_folder(digest) / "0.jsonl").open("w", encoding="utf-8") as file:
            for turn in count():
                for line in lines[:rest]:
                    own = {"query": f"{line['query']}-{turn}", "prompt": f"{line.get('prompt', '')} ({turn})"}
                    if "group" in line:
                        own["group"] = f"{line['group']}-{turn}"
                    file.write(json.dumps({**line, **own}, ensure_ascii=False) + "\n")
                rest -= len(lines)
                if rest <= 0:
                    break
    shutil.copytree(source / "images", target / "images", dirs_exist_ok=True)
    return per_cell * len(cells)


def main() -> None:
    """Prints the CPU seconds, the seconds and the peak memory of two reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    arguments = parser.parse_args()
    samples = enlarge(arguments.run, arguments.folder, arguments.samples)
    command = [sys.executable, "-m", "experiments.cli.main", "report", str(arguments.folder)]
    for cache in ("without a cache", "with the cache"):
        start = time.monotonic()
        cpu = children_cpu_seconds(lambda: subprocess.run(command, capture_output=True, check=True))
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kB on Linux; the larger of both reports
        print(f"icl report on {samples:,} samples {cache}: {cpu:.1f} s CPU, {seconds:.1f} s, at most {peak:.2f} GiB")


if __name__ == "__main__":
    main()
