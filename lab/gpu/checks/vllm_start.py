"""vLLM's engine starts from `icl run`, whichever way its process is started.

An engine process that is forked from a process that has asked CUDA for its devices cannot use CUDA.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from icl.errors import ModelError
from lab.gpu.check import Bench, BenchCheck, Figure

QUERIES = 4


def run(bench: Bench) -> Iterator[Figure]:
    """One run of the shipped model for each way of starting a process."""
    for method in ("spawn",) if bench.is_quick else ("spawn", "fork"):
        folder = bench.folder / f"start-{method}"
        folder.mkdir(exist_ok=True)
        config = {
            "name": method,
            "task": {"name": "binding", "queries": QUERIES},
            "model": {"name": "vllm", "enforce_eager": True, "gpu_memory_utilization": 0.3},
            "shots": 1,
            "max_new_tokens": 4,
        }
        (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "experiments.cli.main", "run", "run.yaml", "--runs", "runs"]
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "VLLM_WORKER_MULTIPROC_METHOD": method},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ModelError(f"icl run with {method} ended with status {done.returncode}: {(lines or ['?'])[-1]}")
        yield Figure(f"icl run, {method}", f"{time.monotonic() - start:.0f} s", "starts and ends", True)


CHECK = BenchCheck(2, "vLLM from icl run, spawn and fork", "both start", 2.0, run, needs=("vllm",), uses_models=False)
