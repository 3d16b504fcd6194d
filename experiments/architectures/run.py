"""Asks architectures what they can do here, and keeps what they answered in a folder.

vLLM and the Hugging Face backend need releases of transformers that do not go together. So an architecture is asked in
halves: one where the backend `hf` can open sessions, then one where vLLM is, on the same checkpoints. `other` runs the
second half with the Python of another environment. What was answered by these releases is kept and not asked again.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from experiments.architectures import checks, engines
from experiments.architectures.asked import checkpoint
from experiments.architectures.random.make import ARCHITECTURES
from experiments.architectures.verdicts import Entry, Half, read, written
from icl.errors import ConfigError, ModelError, did_you_mean
from icl.models.hf import version_check as least

RESULTS = "results.json"
Told = Callable[[Entry], None]


@dataclass(frozen=True)
class Table:
    """entries: in the order of the list of architectures."""

    entries: tuple[Entry, ...]

    @property
    def peculiar(self) -> dict[str, str]:
        docs = {name: (make.__doc__ or "").strip() for name, make in ARCHITECTURES.items()}
        return {name: doc.rstrip(".").replace("|", "/") for name, doc in docs.items()}


@dataclass(frozen=True)
class Book:
    """The file of a folder: name -> what was found, written anew with every row."""

    path: Path

    @property
    def found(self) -> dict[str, Entry]:
        entries = {entry.name: entry for entry in read(self.path)}
        return {name: entries[name] for name in ARCHITECTURES if name in entries}

    def put(self, entry: Entry) -> None:
        found = self.found | {entry.name: entry}
        written([found[name] for name in ARCHITECTURES if name in found], self.path)


def asked(
    names: Sequence[str],
    work: Path,
    told: Told = lambda _: None,
    *,
    half: Half | None = None,
    again: bool = False,
    vllm: Path | None = None,
) -> Table:
    """names: none for all. told: called with each entry once a half of it is answered, here or elsewhere.

    half: this one alone; else all that this environment can answer. again: also what was answered before. vllm: the
    Python of another environment, which answers what this one cannot. Raises ConfigError, ModelError.
    """
    from experiments.architectures import other

    chosen = _chosen(names)
    work.mkdir(parents=True, exist_ok=True)
    book = Book(work / RESULTS)
    for one in _halves(book, half):
        releases = RELEASES[one]()
        for name in chosen:
            known = book.found.get(name)
            if again or known is None or known.asked.get(one) != releases:
                book.put(ASK[one](name, work, known).answered(one, releases))
            told(book.found[name])
    if vllm is not None:
        other.asked(vllm, chosen, work, told, again=again)
    return Table(tuple(book.found.values()))


def _chosen(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in ARCHITECTURES:
            raise ConfigError(
                f"no architecture named '{name}'.{did_you_mean(name, ARCHITECTURES)} There are "
                f"{', '.join(ARCHITECTURES)}."
            )
    return list(names or ARCHITECTURES)


def _halves(book: Book, half: Half | None) -> list[Half]:
    """What is asked in this environment. Raises ModelError where that is nothing yet."""
    halves: list[Half] = []
    problem: ModelError | None = None
    try:
        least.check()
        halves.append("hf")
    except ModelError as error:
        problem = error
    if find_spec("vllm") is not None:
        halves.append("vllm")
    if half is not None and half not in halves:
        raise problem or ModelError(
            "vLLM is not installed in this environment: the README says how one with it is made."
        )
    halves = halves if half is None else [half]
    if not halves:
        raise problem or ModelError("this environment can answer nothing.")
    if halves == ["vllm"] and not book.found:
        raise ModelError(
            f"vLLM is here, and there is nothing in {book.path.parent} to compare it with: {problem or ''} Run `icl "
            f"architectures --work {book.path.parent}` there first."
        )
    return halves


def _by_hf(name: str, work: Path, entry: Entry | None) -> Entry:
    """On a checkpoint made anew. What vLLM said of the one before is forgotten."""
    shutil.rmtree(work / name, ignore_errors=True)
    return checks.checked(name, checkpoint(name, work / name))


def _by_vllm(name: str, work: Path, entry: Entry | None) -> Entry:
    if entry is None:
        raise ModelError(f"{name} was not asked on the backend 'hf' yet: there is nothing in {work} to compare with.")
    return entry.with_verdicts(engines.checked(entry, work / name)) if entry.answers else entry


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


ASK: dict[Half, Callable[[str, Path, Entry | None], Entry]] = {"hf": _by_hf, "vllm": _by_vllm}
RELEASES: dict[Half, Callable[[], str]] = {
    "hf": lambda: f"torch {_version('torch')}, transformers {_version('transformers')}",
    "vllm": lambda: f"vllm {_version('vllm')} (with transformers {_version('transformers')})",
}
