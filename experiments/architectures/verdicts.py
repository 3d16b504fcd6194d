"""What was found of an architecture, as data: verdicts, answers, and the file that engines hand on to one another."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from icl.errors import DataError
from icl.types import Generation

Word = Literal["yes", "no", "off", "not run"]
Half = Literal["hf", "vllm"]
"""Which engine answers: the Hugging Face backend, or vLLM."""


@dataclass(frozen=True)
class Verdict:
    """off: a way that this architecture does not allow is not taken. why: what was compared, or what went wrong."""

    word: Word
    why: str = ""


@dataclass(frozen=True)
class ReferenceAnswers:
    """Of all prompts: tokens without the one that ended them, and by how many nats each step was decided."""

    tokens: tuple[tuple[int, ...], ...]
    gaps: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Generation]) -> "ReferenceAnswers":
        return cls(tuple(one.tokens for one in answers), tuple(tuple(one.trace["gap"]) for one in answers))

    def only(self, places: Sequence[int]) -> "ReferenceAnswers":
        """Of these prompts."""
        return ReferenceAnswers(tuple(self.tokens[i] for i in places), tuple(self.gaps[i] for i in places))


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    kind: the model's class. notes: what the backend says of itself for this checkpoint. releases: half -> the releases
    that answered it, once it has answered.
    """

    name: str
    kind: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    answers: Mapping[str, ReferenceAnswers] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    releases: Mapping[str, str] = field(default_factory=dict)

    def with_verdicts(self, more: Mapping[str, Verdict]) -> "Entry":
        return replace(self, verdicts={**self.verdicts, **more})

    def answered(self, half: Half, releases: str) -> "Entry":
        return replace(self, releases={**self.releases, half: releases})


def write_entries(entries: Sequence[Entry], path: Path) -> None:
    """In one go: a process that is killed leaves the file as it was before."""
    text = json.dumps({"entries": [asdict(entry) for entry in entries]}, indent=1) + "\n"
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_entries(path: Path) -> list[Entry]:
    """Nothing where the file is not there. Raises DataError where it is of another kind."""
    if not path.is_file():
        return []
    try:
        return [_entry(one) for one in json.loads(path.read_text(encoding="utf-8"))["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a file of `python -m experiments.architectures` ({error}). Delete it, or name another."
        ) from error


def _entry(record: Mapping[str, Any]) -> Entry:
    answers = {
        arm: ReferenceAnswers(tuple(map(tuple, one["tokens"])), tuple(map(tuple, one["gaps"])))
        for arm, one in record["answers"].items()
    }
    verdicts = {column: Verdict(**one) for column, one in record["verdicts"].items()}
    return Entry(
        str(record["name"]), str(record["kind"]), verdicts, answers, tuple(record["notes"]), dict(record["releases"])
    )
