"""From a row of any data set to an `Example`: which column is what, and how its values are read as text.

Values are read alike wherever they stand (a column, `options`, `answer_map`): true and false are "yes" and "no" (YAML
reads a bare yes as true), whole numbers have no decimals, class labels are their names.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal

from icl.errors import ConfigError, DataError, did_you_mean
from icl.pictures import Picture
from icl.tasks.source import Source
from icl.types import Example

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

ROLES = ("question", "picture", "answer", "options", "id", "label", "group", "domain", "meta")
SEVERAL = ("picture", "options", "meta")  # roles that may be a list of columns
AnswerIs = Literal["text", "index", "letter"]


@dataclass(frozen=True)
class Layout:
    """How rows are read. columns: role -> column or columns; the rest as in the task `hub`."""

    columns: Mapping[str, str | Sequence[str]]
    question: str | None = None
    options: tuple[str, ...] = ()
    answer_map: Mapping[str, str] | None = None
    answer_is: AnswerIs = "text"

    def __post_init__(self) -> None:
        for role, column in self.columns.items():
            if role not in ROLES:
                known = ", ".join(ROLES)
                raise ConfigError(f"columns has no '{role}'.{did_you_mean(role, ROLES)} It has: {known}.")
            if not isinstance(column, str) and role not in SEVERAL:
                raise ConfigError(f"columns.{role} is one column, not {list(column)}.")
        if "answer" not in self.columns:
            raise ConfigError("columns has no 'answer'. Say which column holds the answer.")
        if self.question is None and "question" not in self.columns:
            raise ConfigError(
                'no question: name its column in columns.question, or give one text, question: "What is this?".'
            )
        try:
            named = [name for _, name, _, _ in Formatter().parse(self.question or "") if name is not None]
        except ValueError as error:
            raise ConfigError(f"question: {error}. Write {{{{ and }}}} for braces that are no column.") from error
        if "" in named:
            raise ConfigError("question: {} names no column. Write its name in the braces, or {{}} for the braces.")
        if self.answer_is != "text" and not self.options and "options" not in self.columns:
            raise ConfigError(f"answer_is: {self.answer_is} needs options to point to.")

    def of(self, role: str) -> tuple[str, ...]:
        """The columns of a role; none where it is not mapped."""
        found = self.columns.get(role, ())
        return (found,) if isinstance(found, str) else tuple(found)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Columns that the question's text names in braces."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.question or "") if name)

    def check(self, source: Source) -> None:
        """Raises ConfigError where a named column is missing, with the columns there are."""
        named = [(f"columns.{role}", column) for role in self.columns for column in self.of(role)]
        for key, column in named + [("question", name) for name in self.placeholders]:
            if column not in source.columns:
                raise ConfigError(
                    f"{key}: {source.name} has no column '{column}'.{did_you_mean(column, source.columns)} "
                    f"Columns: {', '.join(source.columns)}."
                )


def text_of(value: Any) -> str:
    """A value as the text that an answer or an option is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_examples(source: Source, layout: Layout, rows: Sequence[int], ids: Sequence[str]) -> Iterator[Example]:
    """The examples of these rows. No picture is opened. Raises DataError where a row has no answer."""
    wanted = {column for role in layout.columns if role != "picture" for column in layout.of(role)}
    texts = source.data.select_columns(sorted(wanted | set(layout.placeholders))).select(list(rows))
    views = {column: source.data.select_columns([column]) for column in layout.of("picture")}
    for row, name, values in zip(rows, ids, texts, strict=True):
        at = f"{source.name} row {row}"
        options = _options(values, layout)
        answers = _answers(values, source, layout, options, at)
        yield Example(
            id=name,
            pictures=tuple(picture for column in views for picture in _pictures(views[column], source, column, row)),
            question=_question(values, layout, at),
            answers=answers,
            options=options,
            label=_one(values, source, layout, "label")
            or (answers[0] if layout.options or layout.answer_map else None),
            domain=_one(values, source, layout, "domain"),
            group=_one(values, source, layout, "group"),
            meta={column: values[column] for column in layout.of("meta")},
        )


def picture_keys(source: Source, layout: Layout, rows: Sequence[int]) -> list[list[str]]:
    """What tells the pictures of these rows from others without decoding: path, or sha256 of the encoded bytes."""
    found: list[list[str]] = [[] for _ in rows]
    for column in layout.of("picture"):
        for keys, values in zip(found, source.data.select_columns([column]).select(list(rows)), strict=True):
            for cell in _cells(values[column]):
                data = cell.get("bytes") if isinstance(cell, Mapping) else None
                path = cell.get("path") if isinstance(cell, Mapping) else cell
                keys.append(hashlib.sha256(data).hexdigest() if data else str(path))
    return found


def _cells(value: Any) -> list[Any]:
    """The pictures in one cell of a table: none, one or several."""
    if value is None:
        return []
    return [cell for cell in value if cell is not None] if isinstance(value, list | tuple) else [value]


def _pictures(view: "Dataset", source: Source, column: str, row: int) -> Iterator[Picture]:
    from datasets import Image

    feature = view.features[column]
    if isinstance(feature, Image):
        yield Picture.from_source(Stored(view, column, row, 0), f"{source.name} row {row}, column '{column}'")
        return
    for place, cell in enumerate(_cells(view[row][column])):
        if isinstance(cell, str):
            path = Path(cell) if source.folder is None else source.folder / cell
            yield Picture.from_path(path, f"{path} ({source.name} row {row})")
        else:
            origin = f"{source.name} row {row}, column '{column}', picture {place}"
            yield Picture.from_source(Stored(view, column, row, place), origin)


@dataclass(frozen=True, eq=False)
class Stored:
    """Reads one picture of a table when it is called."""

    view: "Dataset"
    column: str
    row: int
    place: int

    def __call__(self) -> "Image":
        import io

        from PIL import Image

        cells = _cells(self.view[self.row][self.column])
        if self.place >= len(cells):
            raise ValueError("the cell is empty")
        cell = cells[self.place]
        if not isinstance(cell, Mapping):
            raise ValueError(f"{cell!r:.40} is neither a picture nor the path of one")
        if cell.get("bytes"):
            return Image.open(io.BytesIO(cell["bytes"]))
        if cell.get("path"):
            return Image.open(cell["path"])
        raise ValueError("the cell has neither bytes nor a path")


def _question(values: Mapping[str, Any], layout: Layout, at: str) -> str:
    if layout.question:
        try:
            return layout.question.format(**values)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{at}: the question {layout.question!r} cannot be filled in: {error}.") from error
    column = layout.of("question")[0]
    if values[column] is None:
        raise DataError(f"{at} has no question in column '{column}'. Remove the row, or give one text as question.")
    return text_of(values[column])


def _named(value: Any, source: Source, column: str) -> str:
    """The text of a value, a class label by its name."""
    feature = source.data.features[column]
    names = getattr(feature, "names", None)
    return text_of(names[value]) if names and isinstance(value, int) and value >= 0 else text_of(value)


def _one(values: Mapping[str, Any], source: Source, layout: Layout, role: str) -> str | None:
    for column in layout.of(role):
        if values[column] is not None:
            return _named(values[column], source, column)
    return None


def _options(values: Mapping[str, Any], layout: Layout) -> tuple[str, ...]:
    found = [values[column] for column in layout.of("options")]
    flat = [
        text_of(item) for cell in found for item in (cell if isinstance(cell, list) else [cell]) if item is not None
    ]
    return tuple(flat) or layout.options


def _answers(
    values: Mapping[str, Any], source: Source, layout: Layout, options: tuple[str, ...], at: str
) -> tuple[str, ...]:
    """Accepted answers, the first as given, each once. Lists may hold texts or records with the key 'answer' (VQA)."""
    column = layout.of("answer")[0]
    given = values[column] if isinstance(values[column], list | tuple) else [values[column]]
    raw = [item.get("answer") if isinstance(item, Mapping) else item for item in given]
    answers = [_answer(item, source, layout, options, at) for item in raw if not _missing(item)]
    if not answers or not any(answers):
        raise DataError(f"{at} has no answer in column '{column}'. Remove the row, or name another column.")
    return tuple(dict.fromkeys(answer for answer in answers if answer))


def _missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _answer(item: Any, source: Source, layout: Layout, options: tuple[str, ...], at: str) -> str:
    told = _named(item, source, layout.of("answer")[0])
    if layout.answer_is != "text":
        place = (
            ord(told.upper()) - ord("A") if layout.answer_is == "letter" and len(told) == 1 else _whole(text_of(item))
        )
        if place is None or not 0 <= place < len(options):
            raise DataError(f"{at}: the answer {item!r} is no {layout.answer_is} of its {len(options)} options.")
        return options[place]
    if layout.answer_map is not None:
        for key in (text_of(item), told):
            if key in layout.answer_map:
                return layout.answer_map[key]
        raise DataError(f"{at}: answer_map has no '{told}'. It has: {', '.join(layout.answer_map)}.")
    return told


def _whole(text: str) -> int | None:
    return int(text) if text.lstrip("-").isdigit() else None
