"""What was found of an architecture, as data: verdicts, answers, and the file that engines hand on to one another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from icl.errors import DataError
from icl.types import Generation

Word = Literal["yes", "no", "off", "not run"]


@dataclass(frozen=True)
class Verdict:
    """off: a way that this architecture does not allow is not taken. why: what was compared, or what went wrong."""

    word: Word
    why: str = ""


@dataclass(frozen=True)
class Answers:
    """Of all prompts: tokens without the one that ended them, and by how many nats each step was decided."""

    tokens: tuple[tuple[int, ...], ...]
    gaps: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Generation]) -> "Answers":
        return cls(tuple(one.tokens for one in answers), tuple(tuple(one.trace["gap"]) for one in answers))


@dataclass(frozen=True)
class Entry:
    """A row of the table. kind: the model's class. notes: what the backend says of itself for this checkpoint."""

    name: str
    kind: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_verdicts(self, more: Mapping[str, Verdict]) -> "Entry":
        return replace(self, verdicts={**self.verdicts, **more})


def written(entries: Sequence[Entry], versions: Mapping[str, str], path: Path) -> None:
    """versions: package -> version, of all that were asked."""
    told = {"versions": dict(versions), "entries": [asdict(entry) for entry in entries]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """Entries and versions; nothing where the file is not there. Raises DataError where it is of another kind."""
    if not path.is_file():
        return [], {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return [_entry(one) for one in told["entries"]], dict(told["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a file of `icl architectures` ({error}). Delete it, or name another."
        ) from error


def _entry(told: Mapping[str, dict[str, dict[str, list[list[int]]]]]) -> Entry:
    answers = {
        arm: Answers(tuple(map(tuple, one["tokens"])), tuple(map(tuple, one["gaps"])))
        for arm, one in told["answers"].items()
    }
    verdicts = {column: Verdict(**one) for column, one in told["verdicts"].items()}  # type: ignore[arg-type]
    return Entry(str(told["name"]), str(told["kind"]), verdicts, answers, tuple(told["notes"]))
