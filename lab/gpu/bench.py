"""`python -m lab.gpu`: prepares the checkpoints, runs all checks and keeps the page up to date."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.store.invocations import now
from icl.errors import ConfigError
from icl.models.vllm.model import has_gpu
from lab.gpu.check import Bench, BenchCheck, all_checks
from lab.gpu.page import BenchPage
from lab.gpu.prepare import scratch_folder
from lab.gpu.run import MAX_SECONDS, BenchRow, run_checks, run_process

PREPARE_SECONDS = 300.0
CPU_NOTE = "No GPU is here: checks that run on a CPU use the shipped checkpoint, and the others say what they need."


def run_bench(
    out: Path,
    is_quick: bool = False,
    on_row: Callable[[BenchRow], None] = lambda row: None,
    checks: Sequence[BenchCheck] | None = None,
) -> BenchPage:
    """Runs all checks and writes `doctor.html` and `doctor.json` after each.

    Args:
        out: Folder for the page and for the output of the checks (`logs`).
        is_quick: Whether checks measure less, for five minutes.
        on_row: Called with each row as soon as it is there.
        checks: Other checks.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    start = time.monotonic()
    logs = out / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: {out} is not a folder that can be written to: {error.strerror}.") from error
    device = "cuda" if has_gpu() else "cpu"
    deadline = start + MAX_SECONDS[is_quick]
    page = BenchPage(device, is_quick, now(), notes=[CPU_NOTE] if device == "cpu" else [])
    scratch = scratch_folder(out)
    bench = Bench(scratch, device, is_quick)

    def prepare() -> str:
        return "" if device == "cpu" else _make_models(bench, page, logs, deadline)

    try:
        for row in run_checks(all_checks() if checks is None else checks, bench, logs, deadline, prepare):
            page.rows.append(row)
            page.seconds = time.monotonic() - start
            page.write(out)
            on_row(row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return page


def _make_models(bench: Bench, page: BenchPage, logs: Path, deadline: float) -> str:
    """Makes the checkpoints. Returns why there are none, or ''."""
    bench_file, result, log = (logs / f"prepare.{suffix}" for suffix in ("bench.json", "json", "log"))
    result.unlink(missing_ok=True)
    bench_file.write_text(json.dumps(bench.to_dict()), encoding="utf-8")
    limit = min(PREPARE_SECONDS, max(1.0, deadline - time.monotonic()))
    how = run_process([str(bench_file), str(result)], log, limit, module="prepare")
    if not result.exists():
        return f"the checkpoints of random weights could not be made: the process {how}. See {log.name}."
    made = json.loads(result.read_text(encoding="utf-8"))
    bench.models.update(made["models"])
    page.notes += made["notes"]
    return ""
