"""The half of vLLM in another environment: the same command with its Python, on the same folder.

It prints a line for each finished architecture. If its process dies, the current architecture gets that verdict, a new
process continues with the next one, and the next call repeats it.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from icl.errors import ConfigError, ModelError
from lab.architectures.run import ALL_ARCHITECTURES, RESULTS, ReportEntry, ResultsFile, Subjects
from lab.architectures.verdicts import Verdict

LOG = "vllm.log"
COLUMNS = ("vllm", "lockstep")


def check_in_process(
    python: Path,
    names: Sequence[str],
    work: Path,
    report_entry: ReportEntry,
    subjects: Subjects = ALL_ARCHITECTURES,
    *,
    again: bool = False,
) -> None:
    """Checks the half of vLLM. Raises ConfigError if there is no such program, ModelError if it fails."""
    left, results = list(names), ResultsFile(work / RESULTS, subjects.names)
    (work / LOG).unlink(missing_ok=True)
    while left:
        code, done = _run_process(python, left, work, report_entry, subjects, again=again)
        left = left[done:]
        if code > 0 or (code == 0 and left):
            raise ModelError(f"{python} does not answer for vLLM: {_last(work / LOG)} (more in {work / LOG})")
        if code < 0:
            verdict = Verdict("no", f"vLLM's process died: {Signals(-code).name}")
            results.put(results.entries[left[0]].with_verdicts(dict.fromkeys(COLUMNS, verdict)))
            report_entry(results.entries[left.pop(0)])


def _run_process(
    python: Path, names: Sequence[str], work: Path, report_entry: ReportEntry, subjects: Subjects, *, again: bool
) -> tuple[int, int]:
    """(exit status, number of finished architectures)."""
    call = [str(python), "-m", subjects.command, *names, "--work", str(work), "--half", "vllm"]
    done, results = 0, ResultsFile(work / RESULTS, subjects.names)
    with (work / LOG).open("a", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(
                [*call, *(["--again"] if again else [])], stdout=subprocess.PIPE, stderr=log, text=True
            )
        except OSError as error:
            raise ConfigError(f"--vllm: {python} is not a Python that can be started: {error.strerror}.") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if done < len(names) and line.split(maxsplit=1)[:1] == [names[done]]:
                    report_entry(results.entries[names[done]])
                    done += 1
                else:
                    log.write(line)
    return process.returncode, done


def _last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing."
