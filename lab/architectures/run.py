"""Checks architectures or twins and stores the results in a folder.

vLLM and the Hugging Face backend need different releases of transformers. So each row is checked in two
halves on the same checkpoint: one in an environment of the backend `hf`, one in an environment of vLLM. `vllm_process`
runs the second half with the Python of the other environment. Results of the installed releases are reused.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from icl.errors import ConfigError, ModelError, did_you_mean
from icl.models.hf import conventions
from icl.types import Prompt
from lab.architectures import checks, engines
from lab.architectures.inputs import checkpoint, prompts
from lab.architectures.verdicts import Entry, Half, Verdict, read_entries, write_entries
from tests.random_models.make import ARCHITECTURES

RESULTS = "results.json"
ReportEntry = Callable[[Entry], None]


@dataclass(frozen=True)
class Table:
    """The results of all architectures, in the order of the list of architectures."""

    entries: tuple[Entry, ...]

    @property
    def peculiar(self) -> dict[str, str]:
        docs = {name: (make.__doc__ or "").strip() for name, make in ARCHITECTURES.items()}
        return {name: doc.rstrip(".").replace("|", "/") for name, doc in docs.items()}


@dataclass(frozen=True)
class Subjects:
    """What a table has rows for.

    Attributes:
        command: The module whose command checks them.
        kind: What one is called in messages.
        names: Their names, in the order of the rows.
        write: Writes the checkpoint of a name into a folder.
        check: The checks of the Hugging Face backend on a checkpoint.
        prompts: The prompts of the checks.
        max_model_len: The number of tokens that vLLM has to hold.
        ids: Compares token ids of vLLM's processor with those of the backend `hf`; None: the table has no such column.
    """

    command: str
    kind: str
    names: tuple[str, ...]
    write: Callable[[str, Path], Path]
    check: Callable[[str, Path], Entry]
    prompts: Callable[[], list[Prompt]]
    max_model_len: int
    ids: Callable[[Path], Verdict] | None = None


def _check(name: str, folder: Path) -> Entry:
    return checks.check_hf(name, folder)


ALL_ARCHITECTURES = Subjects(
    "lab.architectures", "architecture", tuple(ARCHITECTURES), checkpoint, _check, prompts, 1024
)


@dataclass(frozen=True)
class ResultsFile:
    """The results file of a folder, which is rewritten after every check."""

    path: Path
    names: tuple[str, ...] = ALL_ARCHITECTURES.names

    @property
    def entries(self) -> dict[str, Entry]:
        entries = {entry.name: entry for entry in read_entries(self.path)}
        return {name: entries[name] for name in self.names if name in entries}

    def put(self, entry: Entry) -> None:
        entries = self.entries | {entry.name: entry}
        write_entries([entries[name] for name in self.names if name in entries], self.path)


def check_architectures(
    names: Sequence[str],
    work: Path,
    report_entry: ReportEntry = lambda _: None,
    *,
    half: Half | None = None,
    again: bool = False,
    vllm: Path | None = None,
) -> Table:
    """Checks architectures and returns all results; the arguments and errors are those of `check_subjects`."""
    entries = check_subjects(ALL_ARCHITECTURES, names, work, report_entry, half=half, again=again, vllm=vllm)
    return Table(entries)


def check_subjects(
    subjects: Subjects,
    names: Sequence[str],
    work: Path,
    report_entry: ReportEntry = lambda _: None,
    *,
    half: Half | None = None,
    again: bool = False,
    vllm: Path | None = None,
) -> tuple[Entry, ...]:
    """Checks rows of a table and returns all results.

    Args:
        subjects: All rows that there are.
        names: The rows to check; all if empty.
        work: The folder of checkpoints and results.
        report_entry: Called with each entry after a half of it was checked.
        half: The half to check; by default all that this environment can.
        again: Whether to repeat checks that these releases have results for.
        vllm: The Python of an environment with vLLM, which checks the other half.

    Raises:
        ConfigError: For an unknown name or program.
        ModelError: If no half can be checked.
    """
    from lab.architectures import vllm_process

    chosen = _chosen(subjects, names)
    work.mkdir(parents=True, exist_ok=True)
    results = ResultsFile(work / RESULTS, subjects.names)
    for one in _halves(subjects, results, half):
        releases = RELEASES[one]()
        for name in chosen:
            entry = results.entries.get(name)
            if again or entry is None or entry.releases.get(one) != releases:
                results.put(CHECKS[one](subjects, name, work, entry).answered(one, releases))
            report_entry(results.entries[name])
    if vllm is not None:
        vllm_process.check_in_process(vllm, chosen, work, report_entry, subjects, again=again)
    return tuple(results.entries.values())


def _chosen(subjects: Subjects, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in subjects.names:
            raise ConfigError(
                f"no {subjects.kind} named '{name}'.{did_you_mean(name, subjects.names)} There are "
                f"{', '.join(subjects.names)}."
            )
    return list(names or subjects.names)


def _halves(subjects: Subjects, results: ResultsFile, half: Half | None) -> list[Half]:
    """The halves that this environment checks. Raises ModelError if there are none."""
    halves: list[Half] = []
    problem: ModelError | None = None
    try:
        conventions.check_version()
        halves.append("hf")
    except ModelError as error:
        problem = error
    if find_spec("vllm") is not None:
        halves.append("vllm")
    if half is not None and half not in halves:
        raise problem or ModelError("vLLM is not installed in this environment: `sh tests/vllm_env.sh` creates one.")
    halves = halves if half is None else [half]
    if not halves:
        raise problem or ModelError("this environment can check nothing.")
    if halves == ["vllm"] and not results.entries:
        raise ModelError(
            f"there is nothing in {results.path.parent} to compare vLLM with: {problem or ''} Run `python "
            f"-m {subjects.command} --work {results.path.parent}` there first."
        )
    return halves


def _by_hf(subjects: Subjects, name: str, work: Path, entry: Entry | None) -> Entry:
    """Checks a new checkpoint; the results of vLLM for the previous one are dropped."""
    shutil.rmtree(work / name, ignore_errors=True)
    return subjects.check(name, subjects.write(name, work / name))


def _by_vllm(subjects: Subjects, name: str, work: Path, entry: Entry | None) -> Entry:
    if entry is None:
        raise ModelError(
            f"{name} was not checked with the backend 'hf' yet: there is nothing in {work} to compare with."
        )
    if not entry.answers:
        return entry
    if subjects.ids is not None:
        entry = entry.with_verdicts({"ids": subjects.ids(work / name)})
    return entry.with_verdicts(
        engines.check_vllm(entry, work / name, subjects.prompts(), max_model_len=subjects.max_model_len)
    )


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


CHECKS: dict[Half, Callable[[Subjects, str, Path, Entry | None], Entry]] = {"hf": _by_hf, "vllm": _by_vllm}
RELEASES: dict[Half, Callable[[], str]] = {
    "hf": lambda: f"torch {_version('torch')}, transformers {_version('transformers')}",
    "vllm": lambda: f"vllm {_version('vllm')} (with transformers {_version('transformers')})",
}
