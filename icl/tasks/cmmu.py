"""CMMU (He et al., 2401.14011): school questions in Chinese of three types, from the released JSON lines and images.

    multiple-choice      the options are listed by `option_list`; `option_shift` is the published ShiftCheck
    multiple-response    the options are listed in the question, and the answer is their letters, such as "ABD"
    fill-in-the-blank    one question for each blank (`sub_questions`)

The metric `cmmu` scores the second and the third type as released, and the first one like `lenient` does.

Differs from the released code in the pool: half of the questions by default are demonstrations, which CMMU does not
have.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl import DataError, Example, Image, Pool, SharedPoolTask, nested_choice
from icl.registry import Fraction, component
from icl.tasks.base import LimitedTask
from icl.tasks.cell_values import RelativePaths

QuestionType = Literal["multiple-choice", "multiple-response", "fill-in-the-blank"]
KEYS = ("id", "type", "question_info", "answer", "images")
META = ("type", "grade_band", "subject", "difficulty")
Row = Mapping[str, Any]


@component("task", "cmmu")
@dataclass(frozen=True)
class CMMUTask(SharedPoolTask, RelativePaths, LimitedTask):
    """CMMU's questions with one or several right options, or with a blank to fill in."""

    title: ClassVar[str] = "CMMU"

    path: str  # JSON lines of the release; image paths are relative to its folder
    types: tuple[QuestionType, ...] = ("multiple-choice", "multiple-response", "fill-in-the-blank")  # types to ask
    pool_fraction: Fraction = 0.5  # share of the questions that become the pool

    @cached_property
    def _file(self) -> Path:
        return self._place(self.path)

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        queries = [e for row in self._rows[self._cut :] for e in self._examples(row)]
        if self.query_limit is not None and self.query_limit > len(queries):
            raise DataError(f"queries: {self.query_limit} is more than the {len(queries)} of {self.path}.")
        return tuple(queries[: self.query_limit])

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(e for row in self._rows[: self._cut] for e in self._examples(row)))

    @property
    def _cut(self) -> int:
        return round(self.pool_fraction * len(self._rows))

    @cached_property
    def _rows(self) -> list[Row]:
        """All questions of the chosen types, in a random order."""
        rows = [row for row in _read(self._file) if row["type"] in self.types]
        order = nested_choice([str(row["id"]) for row in rows], len(rows), self.seed, "cmmu")
        return [rows[i] for i in order]

    def _examples(self, row: Row) -> Iterator[Example]:
        name, question, options = str(row["id"]), str(row["question_info"]), tuple(row.get("options") or ())
        blanks = row.get("sub_questions") or ()
        if row["type"] == "fill-in-the-blank":
            for place, blank in enumerate(blanks):
                yield self._example(row, f"cmmu-{name}-{place}", f"{question} {blank}", str(row["answer"][place]), ())
        elif row["type"] == "multiple-response":
            listed = "".join(f"\n{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
            yield self._example(row, f"cmmu-{name}", question + listed, "".join(sorted(row["answer"])), ())
        else:
            place = ord(str(row["answer"])[:1].upper() or "?") - ord("A")
            if not 0 <= place < len(options):
                raise DataError(
                    f"CMMU: question '{name}' has the answer {row['answer']!r}, which is no letter of its "
                    f"{len(options)} options."
                )
            yield self._example(row, f"cmmu-{name}", question, str(options[place]), options)

    def _example(self, row: Row, name: str, question: str, answer: str, options: tuple[str, ...]) -> Example:
        folder = self._file.parent
        return Example(
            id=name,
            images=tuple(Image.from_path(folder / image, f"CMMU {image}") for image in row["images"]),
            question=question,
            answers=(answer,),
            options=options,
            domain=str(row["subject"]) if "subject" in row else None,
            group=f"cmmu-{row['id']}",
            meta={key: row[key] for key in META if key in row},
        )


def _read(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"CMMU: {path} cannot be read ({error.strerror}). The data set is BAAI/CMMU on the Hugging Face hub; give "
            "the path of its JSON lines."
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"CMMU: {path}:{number} is not JSON: {error}.") from error
        missing = [key for key in KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise DataError(f"CMMU: {path}:{number} has no '{missing[0]}'. A line has {', '.join(KEYS)}.")
        yield row
