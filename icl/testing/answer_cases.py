"""Holds an accuracy metric against cases: outputs, accepted answers, and whether a careful reader calls them right."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl.errors import DataError
from icl.metrics.base import Metric
from icl.types import Example, Generation

SHIPPED = Path(__file__).parents[1] / "metrics" / "answer_cases.jsonl"
"""Outputs in the styles of current instruct and reasoning models."""

KEYS = {"output": str, "answers": list, "right": bool}


@dataclass(frozen=True)
class AnswerCase:
    """One output with its verdict. line: its place in the file, from 1."""

    line: int
    output: str
    answers: tuple[str, ...]
    options: tuple[str, ...]
    right: bool
    question: str = ""

    @property
    def as_sample(self) -> tuple[Generation, Example]:
        """What a metric reads."""
        return Generation(self.output), Example(f"line {self.line}", (), self.question, self.answers, self.options)

    def verdict(self, metric: Metric) -> bool | None:
        """Whether the metric calls the output right: a score of at least .5. None without a score."""
        score = metric.score(*self.as_sample)
        return None if score is None else score >= 0.5

    def disagreement(self, metric: Metric) -> str | None:
        """A sentence if the metric's verdict is another one."""
        if self.verdict(metric) == self.right:
            return None
        score = metric.score(*self.as_sample)
        options = f", options {', '.join(self.options)}" if self.options else ""
        verdict = "right" if self.right else "wrong"
        return (
            f"line {self.line}: {verdict}, scored {score}: {self.output!r} (answers {', '.join(self.answers)}{options})"
        )


def read_cases(path: Path) -> list[AnswerCase]:
    """The cases of a JSON lines file: {"output": str, "answers": [str], "right": bool}, and
    optionally "question": str and "options": [str].

    Raises:
        DataError: The file cannot be read, or a line is not a valid case.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} cannot be read: it is not a regular file.")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    cases = [_case(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise DataError(f"{path} has no case. Write one JSON object per line.")
    return cases


def disagreements(metric: Metric, cases: Sequence[AnswerCase]) -> Iterator[str]:
    """A sentence for each case that the metric judges otherwise."""
    return (text for text in (case.disagreement(metric) for case in cases) if text is not None)


def _case(path: Path, number: int, line: str) -> AnswerCase:
    where = f"{path}:{number}"
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this line is not a JSON object ({error}).") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: this line is not a JSON object.")
    for key, kind in KEYS.items():
        if not isinstance(fields.get(key), kind):
            raise DataError(f"{where}: '{key}' must be there as a {kind.__name__}. Keys: {', '.join(KEYS)}, options.")
    options = fields.get("options") or []
    if not isinstance(options, list) or not fields["answers"]:
        raise DataError(f"{where}: answers and options are lists of text, and there is at least one answer.")
    return AnswerCase(
        number,
        fields["output"],
        tuple(map(str, fields["answers"])),
        tuple(map(str, options)),
        fields["right"],
        str(fields.get("question", "")),
    )
