"""The results of checks as data: verdicts, reference answers, and the file that both engines write."""

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
"""The engine of a half of the checks: the Hugging Face backend or vLLM."""

CLOSE = 5e-3
"""A margin between the best two tokens in nats, in float32."""
CLOSE_16_BIT = 0.1
"""As CLOSE, in bfloat16."""


@dataclass(frozen=True)
class Verdict:
    """The result of one check.

    Attributes:
        word: 'off' means that the architecture does not allow what is checked.
        why: What was compared, or what went wrong.
    """

    word: Word
    why: str = ""


@dataclass(frozen=True)
class ReferenceAnswers:
    """The answers of the Hugging Face backend, with which vLLM is compared.

    Attributes:
        tokens: The tokens of each prompt, without the end of text.
        gaps: The margin of each step in nats.
    """

    tokens: tuple[tuple[int, ...], ...]
    gaps: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Generation]) -> "ReferenceAnswers":
        return cls(tuple(one.tokens for one in answers), tuple(tuple(one.trace["gap"]) for one in answers))

    def only(self, places: Sequence[int]) -> "ReferenceAnswers":
        """The answers to these prompts."""
        return ReferenceAnswers(tuple(self.tokens[i] for i in places), tuple(self.gaps[i] for i in places))


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: The architecture.
        kind: The class of the model.
        verdicts: The result of each check.
        answers: The reference answers of each arm.
        notes: The notes of the backend about this checkpoint.
        releases: The package releases that ran each half.
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


def compare_tokens(token_lists: Sequence[Sequence[int]], reference: ReferenceAnswers, close: float = CLOSE) -> Verdict:
    """Compares the tokens of all prompts, up to the first step with a margin below `close`."""
    total = equal = 0
    for number, (own, other, gaps) in enumerate(zip(token_lists, reference.tokens, reference.gaps, strict=True)):
        total += len(other)
        if tuple(own) == other:
            equal += len(other)
            continue
        ends = ((*own, -1), (*other, -1))
        place = next((i for i, (a, b) in enumerate(zip(*ends, strict=False)) if a != b), min(len(own), len(other)))
        if gaps[place] >= close:
            return Verdict("no", f"prompt {number} differs at token {place}, decided by {gaps[place]:.2g} nats")
        equal += place
    return Verdict(
        "yes", f"{equal} of {total} tokens" + ("" if equal == total else ", different after steps with a small margin")
    )


def write_entries(entries: Sequence[Entry], path: Path) -> None:
    """Writes the file atomically."""
    text = json.dumps({"entries": [asdict(entry) for entry in entries]}, indent=1) + "\n"
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_entries(path: Path) -> list[Entry]:
    """The entries of the file; none if it does not exist. Raises DataError for a file of another kind."""
    if not path.is_file():
        return []
    try:
        return [_entry(one) for one in json.loads(path.read_text(encoding="utf-8"))["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a file of `python -m lab.architectures` ({error}). Delete it, or name another."
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
