"""Asks architectures what they can do here, and keeps what they answered in a folder for the next environment.

vLLM and the Hugging Face backend need releases of transformers that do not go together, so the same command runs twice:
first where the backend `hf` can open sessions, then where vLLM is, on the same checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from experiments.architectures import checks, engines
from experiments.architectures.asked import checkpoint
from experiments.architectures.verdicts import Entry, read, written
from icl.errors import ConfigError, ModelError, did_you_mean
from icl.models.hf import version as least
from icl.models.hf.random.make import ARCHITECTURES

RESULTS = "results.json"


@dataclass(frozen=True)
class Table:
    """entries: in the order of the list of architectures."""

    entries: tuple[Entry, ...]
    versions: dict[str, str]

    @property
    def peculiar(self) -> dict[str, str]:
        docs = {name: (make.__doc__ or "").strip() for name, make in ARCHITECTURES.items()}
        return {name: doc.rstrip(".").replace("|", "/") for name, doc in docs.items()}


def asked(names: Sequence[str], work: Path, told: Callable[[Entry], None] = lambda _: None) -> Table:
    """names: none for all. told: called with each entry once it is asked. Raises ConfigError for an unknown name."""
    for name in names:
        if name not in ARCHITECTURES:
            raise ConfigError(
                f"no architecture named '{name}'.{did_you_mean(name, ARCHITECTURES)} There are "
                f"{', '.join(ARCHITECTURES)}."
            )
    work.mkdir(parents=True, exist_ok=True)
    known, versions = read(work / RESULTS)
    found = {entry.name: entry for entry in known}
    ask = _here(found, work)
    for package in ("torch", "transformers") if ask is _by_hf else ("vllm",):
        versions[package] = _version(package)
    for name in names or ARCHITECTURES:
        found[name] = ask(name, work, found.get(name))
        entries = tuple(found[key] for key in ARCHITECTURES if key in found)
        written(entries, versions, work / RESULTS)
        told(found[name])
    return Table(tuple(found[key] for key in ARCHITECTURES if key in found), versions)


Ask = Callable[[str, Path, Entry | None], Entry]


def _here(found: dict[str, Entry], work: Path) -> Ask:
    """Which columns this environment answers. Raises ModelError where it answers none yet."""
    try:
        least.check()
        return _by_hf
    except ModelError as error:
        if find_spec("vllm") is None:
            raise
        if not found:
            raise ModelError(
                f"vLLM is here, and there is nothing in {work} to compare it with: {error} Run `icl architectures "
                f"--work {work}` there first."
            ) from error
        return _by_vllm


def _by_hf(name: str, work: Path, entry: Entry | None) -> Entry:
    return checks.checked(name, checkpoint(name, work / name))


def _by_vllm(name: str, work: Path, entry: Entry | None) -> Entry:
    if entry is None:
        raise ModelError(f"{name} was not asked on the backend 'hf' yet: there is nothing in {work} to compare with.")
    return entry.with_verdicts(engines.checked(entry, work / name))


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
