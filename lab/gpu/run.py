"""Runs the checks one after another, each in a process with a time limit, and writes the page after each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure, Status
from lab.gpu.requirements import reason_not_here

MAX_SECONDS = {False: 1920.0, True: 300.0}
"""Time limit of all checks together, by `is_quick`."""

STOP_SECONDS = 5.0
"""Seconds from SIGTERM until a process that does not end gets SIGKILL."""

MAX_CHARACTERS = 300
"""Of the last line of a log, in the row of a check that died."""


@dataclass
class BenchRow:
    """A row of the page: a check and how it ended.

    Attributes:
        text: Why the check is red or not here; '' if its figures say it.
        seconds: How long the check ran.
    """

    number: int
    title: str
    passes: str
    status: Status
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(
    checks: Sequence[BenchCheck],
    bench: Bench,
    logs: Path,
    deadline: float,
    prepare: Callable[[], str] = lambda: "",
) -> Iterator[BenchRow]:
    """The row of each check, as soon as it has ended.

    Args:
        checks: The checks in their order.
        bench: What they work with.
        logs: Folder for the output of each check.
        deadline: Value of `time.monotonic` at which no check runs any more.
        prepare: Called once, before the first check that uses the checkpoints. Returns why they are missing, or ''.
    """
    logs.mkdir(parents=True, exist_ok=True)
    bench.folder.mkdir(parents=True, exist_ok=True)
    problem: str | None = None
    for check in checks:
        row = BenchRow(check.number, check.title, check.passes, "not here")
        if bench.is_quick and not check.in_quick:
            row.text = "left out by --quick"
        else:
            row.text = reason_not_here(list(check.needs))
        if row.text:
            yield row
            continue
        if check.uses_models and problem is None:
            problem = prepare()
        if check.uses_models and problem:
            row.status, row.text = "red", problem
            yield row
            continue
        limit = min(check.seconds(bench.is_quick), deadline - time.monotonic())
        if limit < 1:
            row.status, row.text = "red", "not run, because the time of all checks was used up"
            yield row
            continue
        yield _run_one(check, row, bench, logs, limit)


def _run_one(check: BenchCheck, row: BenchRow, bench: Bench, logs: Path, limit: float) -> BenchRow:
    result, bench_file, log = (logs / f"{check.number:02d}.{suffix}" for suffix in ("jsonl", "json", "log"))
    result.unlink(missing_ok=True)
    bench_file.write_text(json.dumps(bench.to_dict()), encoding="utf-8")
    start = time.monotonic()
    how = run_process([check.module, str(bench_file), str(result)], log, limit)
    row.seconds = round(time.monotonic() - start, 1)
    lines = [json.loads(line) for line in result.read_text(encoding="utf-8").splitlines()] if result.exists() else []
    row.figures = [Figure(**line["figure"]) for line in lines if "figure" in line]
    end = next((line for line in lines if "end" in line), None)
    if end is None:
        row.status, row.text = "red", f"{how}. {_last_line(log)}".rstrip(" .") + f". See {log.name}."
    else:
        row.status, row.text = end["end"], end.get("text", "")
    if any(figure.passes is False for figure in row.figures):
        row.status = "red"
    return row


def run_process(arguments: Sequence[str], log: Path, limit: float, module: str = "process") -> str:
    """Runs a module of this package in a process of its own for at most `limit` seconds. Returns how it ended."""
    command = [sys.executable, "-P", "-m", f"{__package__}.{module}", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_environment(), start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after its limit of {limit:.0f} s"
        finally:
            _stop(process)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _environment() -> dict[str, str]:
    """The variables of a check. Nothing is downloaded; modules come from where this process takes them."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process, and on POSIX also the processes that it has started."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        try:
            os.killpg(process.pid, number) if hasattr(os, "killpg") else process.send_signal(number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        time.sleep(0.1)
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:MAX_CHARACTERS] if lines else ""
