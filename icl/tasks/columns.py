"""Conversion of rows of a data set to examples: the role of each column, and values as text.

Values are read in the same way in columns, `options` and `answer_map`: true and false are "yes" and "no" (YAML reads a
bare yes as true), whole numbers have no decimals, class labels are their names, and cells of CSV files are texts.
Options may be a list, a mapping by letters or numbers (a row's answer may then be such a name), several columns, one
text "(a) open (b) closed", or a list as text "['open', 'closed']". A missing value and the text nan are no option.
Options that are listed by letters lose letters of their own ("A. open"). A row without options has a text answer, also
with `answer_is: letter`. A hint precedes its question. Of several image columns, a row may leave some empty. A column
of `video` has paths of video files; their frames become images. All answers of several annotators are accepted. With
repetitions they are stored as `secret["votes"]`. A column of `objects` lists the COCO objects in the image, for CHAIR.
The four columns of `box` (left, top, width, height in pixels) cut the images. Question and answer may be one column of
conversations, as in LLaVA's data: the first question and the first answer of each. Several letters ("ACD") are one
answer: all of them are right.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

from icl import ConfigError, DataError, Example, Image, OptionListing, datasets, did_you_mean, pa
from icl.option_listing import without_letters
from icl.tasks import (
    DataSource,
    cell_images,
    exchange_of,
    image_at_path,
    image_keys,
    image_part,
    parse_list,
    text_of,
    video_frames,
)
from icl.text.object_mentions import shipped_vocabulary

ROLES = (
    *("question", "hint", "image", "box", "video", "answer", "options", "id", "label", "group", "domain", "objects"),
    "meta",
)
SEVERAL = ("image", "box", "options", "group", "meta")  # roles that may have several columns
STORED_ROLES = ("question", "image", "video", "answer", "options", "id", "objects")  # in each sample already
MAX_SHORT_TEXT = 200
"""Bytes of the longest text in a column that is stored without being named."""
AnswerIs = Literal["text", "index", "letter", "class", "number"]
_LETTERED = re.compile(r"\(([a-zA-Z])\)\s*")  # letter of an option in "(a) open (b) closed"
_LINE = re.compile(r"(?:^|\n)\s*[A-Z]\.\s")  # letter of an option in lines "A. open", "B. closed"
_BETWEEN_LETTERS = re.compile(r"[\s,;&、，]+")
NUMBER_FORMATS = tuple("bcdeEfFgGnoxX%")
"""Last letters of format specifications of numbers."""
_FILED = re.compile(r"^\d+[._]")  # number of a folder's name: 001.Black_footed_Albatross


@dataclass(frozen=True)
class ColumnMapping:
    """The mapping from columns to roles. columns: role -> column or columns. The other fields work as in the task
    `hub`.
    """

    columns: Mapping[str, str | Sequence[str]]
    question: str | None = None
    options: tuple[str, ...] = ()
    answer_map: Mapping[str, str] | None = None
    answer_is: AnswerIs = "text"
    image: str | None = None
    frames: int = 6
    listing: OptionListing | None = None
    decimals: int | None = None

    def __post_init__(self) -> None:
        for role, column in self.columns.items():
            if role not in ROLES:
                roles = ", ".join(ROLES)
                raise ConfigError(f"columns has no '{role}'.{did_you_mean(role, ROLES)} It has: {roles}.")
            if not isinstance(column, str) and role not in SEVERAL:
                raise ConfigError(f"columns.{role} is one column, not {list(column)}.")
        if "box" in self.columns and len(self.of("box")) != 4:
            raise ConfigError("columns.box is four columns: left, top, width and height in pixels.")
        if self.decimals is not None and self.answer_is != "number":
            raise ConfigError("decimals needs answer_is: number.")
        if "answer" not in self.columns:
            raise ConfigError("columns has no 'answer'. Specify the column that contains the answer.")
        if self.question is None and "question" not in self.columns:
            raise ConfigError(
                'no question: set its column in columns.question, or one for all rows, question: "What is this?".'
            )
        for key, text in (("question", self.question), ("image", self.image)):
            try:
                named = _named_in(text)
            except ValueError as error:
                raise ConfigError(f"{key}: {error}. Write {{{{ and }}}} for literal braces.") from error
            if "" in named:
                raise ConfigError(
                    f"{key}: {{}} has no column name in the braces. Write the name, or {{{{}}}} for literal braces."
                )
        if self.image is not None and "image" in self.columns:
            raise ConfigError(
                "image and columns.image: images come from a path or from a column. Set only one of them."
            )
        if self.answer_is in ("index", "letter") and not self.options and "options" not in self.columns:
            raise ConfigError(f"answer_is: {self.answer_is} needs options to point to.")

    def of(self, role: str) -> tuple[str, ...]:
        """The columns of a role. Empty if it is not mapped."""
        columns = self.columns.get(role, ())
        return (columns,) if isinstance(columns, str) else tuple(columns)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Columns in braces in the question's text and the image's path."""
        return (*_named_in(self.question), *_named_in(self.image))

    @property
    def named(self) -> list[tuple[str, str]]:
        """The key and the name of each column that the mapping reads."""
        named = [(f"columns.{role}", column) for role in self.columns for column in self.of(role)]
        return named + [(key, name) for key in ("question", "image") for name in _named_in(getattr(self, key))]

    def check(self, source: DataSource) -> None:
        """Raise ConfigError if a named column is missing. The message lists the columns."""
        for key, column in self.named:
            if column not in source.columns:
                raise ConfigError(
                    f"{key}: {source.name} has no column '{column}'.{did_you_mean(column, source.columns)} "
                    f"Columns: {', '.join(source.columns)}."
                )


def short_columns(source: DataSource, layout: ColumnMapping) -> list[str]:
    """Columns with one number, class, truth value or short text in each row, which no role of the mapping stores."""
    stored = {column for role in STORED_ROLES for column in layout.of(role)}
    columns = []
    for name in source.columns:
        kind = str(getattr(source.features[name], "dtype", ""))
        if name in stored or not kind.startswith(("string", "large_string", "int", "uint", "float", "bool")):
            continue
        if "string" in kind:
            longest = pa.compute.max(pa.compute.binary_length(source.data.data.column(name))).as_py()
            if (longest or 0) > MAX_SHORT_TEXT:
                continue
        columns.append(name)
    return columns


def options_of(values: Mapping[str, Any], layout: ColumnMapping, at: str) -> tuple[str, ...]:
    """The options of a row: of its columns, or of all rows. Raises DataError if one is a list or a mapping."""
    items = list[Any]()
    for column in layout.of("options"):
        for item in _several(values[column]):
            if isinstance(item, list | tuple | Mapping):
                raise DataError(
                    f"{at}: an option in column '{column}' is not a text but {str(item)!r:.60}. Write the options as a "
                    "list of texts, or as texts by letters."
                )
            if not _missing(item) and item != "nan":
                items.append(item)
    are_truths = all(isinstance(item, bool) for item in items)  # else True stays True, as in "True", "False", "Neither"
    return (
        tuple(text_of(item if are_truths else str(item)) if isinstance(item, bool) else text_of(item) for item in items)
        or layout.options
    )


def named_options(values: Mapping[str, Any], layout: ColumnMapping) -> dict[str, str]:
    """The options of a row by their names, where a column has a mapping: {"A": "cat", "B": "dog"}."""
    cells = [values[column] for column in layout.of("options") if isinstance(values[column], Mapping)]
    return {name: text_of(item) for cell in cells for name, item in cell.items() if not _missing(item)}


def read_examples(
    source: DataSource,
    layout: ColumnMapping,
    rows: Sequence[int],
    ids: Sequence[str],
    *,
    more: Sequence[str] = (),
    problems: list[str] | None = None,
) -> Iterator[Example]:
    """The examples of these rows. No image is opened.

    Args:
        more: Columns for `Example.columns`.
        problems: Receives a sentence for each row that is no example, such as one without an answer. Without it, the
            first one is raised as DataError.
    """
    columns = {column for role in layout.columns if role != "image" for column in layout.of(role)}
    texts = source.data.select_columns(sorted(columns | {*layout.placeholders, *more})).select(list(rows))
    views = {column: source.data.select_columns([column]) for column in layout.of("image")}
    classes = _classes(source, layout)
    for row, name, values in zip(rows, ids, texts, strict=True):
        at = f"{source.name} row {row}"
        try:
            images = _images(source, layout, views, row, values)
            options = options_of(values, layout, at) or classes
            answers = _answers(values, source, layout, options, at)
            question = _question(values, layout, at)
            secret = _votes(values, layout) | _objects(values, layout, at)
        except DataError as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        if layout.listing and layout.listing.letters and (texts := without_letters(options)) != options:
            text_of_option = dict(zip(options, texts, strict=True))
            options, answers = texts, tuple(text_of_option.get(answer, answer) for answer in answers)
        yield Example(
            id=name,
            images=images,
            question=question,
            answers=answers,
            options=options,
            label=_one(values, source, layout, "label")
            or (answers[0] if layout.options or layout.answer_map or layout.answer_is == "class" else None),
            domain=_one(values, source, layout, "domain"),
            group=group_name([values[column] for column in layout.of("group")]),
            meta={column: _stored(values[column], source, column) for column in layout.of("meta")},
            secret=secret,
            listing=layout.listing if options else None,
            columns={column: _short(values[column], source, column) for column in more},
        )


def _images(
    source: DataSource,
    layout: ColumnMapping,
    views: Mapping[str, "datasets.Dataset"],
    row: int,
    values: Mapping[str, Any],
) -> tuple[Image, ...]:
    """The images of a row: those of its columns, that of its path, and the frames of its video."""
    at = f"{source.name} row {row}"
    images = [image for column in _filled(views, row, at) for image in cell_images(views[column], source, column, row)]
    if layout.image:
        images.append(image_at_path(layout.image, values, source, at))
    frames = [frame for column in layout.of("video") for frame in _frames(values[column], source, layout.frames, at)]
    return (*_cut(images, [values[column] for column in layout.of("box")], at), *frames)


def _cut(images: Sequence[Image], box: Sequence[Any], at: str) -> Sequence[Image]:
    """The parts of images in a box [left, top, width, height]; without a box, the images."""
    if not box:
        return images
    try:
        left, top, width, height = (round(float(side)) for side in box)
    except (TypeError, ValueError) as error:
        raise DataError(f"{at}: the box {list(box)} is not four numbers. Correct the columns of `box`.") from error
    return [image_part(image, (left, top, left + width, top + height)) for image in images]


def _frames(value: Any, source: DataSource, count: int, at: str) -> tuple[Image, ...]:
    """The frames of the video that a row names, relative to the data's folder."""
    try:
        path = source.image_path(text_of(value))
    except ValueError as error:
        raise DataError(f"{at}: {error}.") from error
    return video_frames(path, count, f"{path} ({at})")


def _filled(views: Mapping[str, "datasets.Dataset"], row: int, at: str) -> list[str]:
    """The image columns of a row that are not empty. A single column is not read. Raises DataError if all are empty."""
    filled = [column for column, view in views.items() if len(views) == 1 or view[row][column] is not None]
    if views and not filled:
        raise DataError(f"{at} has no image in the columns {', '.join(views)}. Remove the row.")
    return filled


def row_image_keys(source: DataSource, layout: ColumnMapping, rows: Sequence[int]) -> list[list[str]]:
    """Keys that identify the images of these rows without decoding them."""
    keys_by_row = image_keys(source, (*layout.of("image"), *layout.of("video")), rows)
    if layout.image:
        named = sorted(set(_named_in(layout.image)))  # none: all rows have one image
        texts = source.data.select_columns(named).select(list(rows)) if named else [{} for _ in rows]
        for keys, values in zip(keys_by_row, texts, strict=True):
            keys.append(layout.image.format(**values))
    return keys_by_row


def _question(values: Mapping[str, Any], layout: ColumnMapping, at: str) -> str:
    hints = (text_of(values[column]) for column in layout.of("hint") if not _missing(values[column]))
    hint = "".join(f"Hint: {text}\n" for text in hints if text not in ("", "nan"))
    if layout.question:
        try:
            return hint + _Filling().vformat(layout.question, (), values)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{at}: the question {layout.question!r} cannot be filled in: {error}.") from error
    column = layout.of("question")[0]
    exchange = exchange_of(values[column])
    question = exchange[0] if exchange else values[column]
    if question is None:
        raise DataError(f"{at} has no question in column '{column}'. Remove the row, or set `question`.")
    return hint + text_of(question)


def _named(value: Any, source: DataSource, column: str) -> str:
    """The text of a value. A class label is its name."""
    feature = source.features[column]
    names = getattr(feature, "names", None)
    return text_of(names[value]) if names and isinstance(value, int) and value >= 0 else text_of(value)


def _short(value: Any, source: DataSource, column: str) -> Any:
    """A number, a truth value or a text. A class label is its name, and a number that is none is missing."""
    if _missing(value):
        return None
    return (
        _named(value, source, column)
        if getattr(source.features[column], "names", None)
        else _stored(value, source, column)
    )


def _stored(value: Any, source: DataSource, column: str) -> Any:
    """A value as it is stored with samples: a text of a CSV file in a column of numbers is a number."""
    return _from_text(value) if isinstance(value, str) and column in source.numbers else value


def _from_text(text: str) -> int | float:
    """The number that a text is, a whole one if it is written as such. Raises ValueError if it is not a number."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _one(values: Mapping[str, Any], source: DataSource, layout: ColumnMapping, role: str) -> str | None:
    for column in layout.of(role):
        if values[column] is not None:
            return _named(values[column], source, column)
    return None


def group_name(values: Sequence[Any]) -> str | None:
    """The name of a group by the values of its columns. None without columns, or if the only column is empty."""
    if not values or (len(values) == 1 and values[0] is None):
        return None
    return " / ".join(text_of(value) for value in values)


def _several(cell: Any) -> Sequence[Any]:
    """The options in one cell: a list, also as text, a mapping by letters, "(a) open (b) closed", lines, or one."""
    if isinstance(cell, Mapping):
        return [cell[letter] for letter in sorted(cell, key=lambda name: (len(name), name))]
    if isinstance(cell, str) and cell.lstrip().lower().startswith("(a)"):
        return [part.strip() for part in _LETTERED.split(cell.strip())[2::2]]
    if isinstance(cell, str) and len(lines := _LINE.split(cell)) > 2 and not lines[0]:
        return [part.strip() for part in lines[1:]]
    listed = parse_list(cell) if isinstance(cell, str) else cell
    return listed if isinstance(listed, list) else [cell]


def _classes(source: DataSource, layout: ColumnMapping) -> tuple[str, ...]:
    """All classes in the order of the data or of the alphabet, if the answer is a class."""
    if layout.answer_is != "class" or layout.options or layout.of("options"):
        return ()
    column = layout.of("answer")[0]
    names = getattr(source.features[column], "names", None) or sorted(set(map(text_of, source.data[column])))
    return tuple(dict.fromkeys(map(_class_of, names)))


def _class_of(name: Any) -> str:
    """'001.Black_footed_Albatross' -> 'Black footed Albatross'."""
    return _FILED.sub("", text_of(name)).replace("_", " ")


def _votes(values: Mapping[str, Any], layout: ColumnMapping) -> dict[str, Any]:
    """The answer of each annotator, if there are several."""
    answers = _answer_cell(values, layout)
    if layout.answer_is != "text" or layout.answer_map or not isinstance(answers, list | tuple):
        return {}
    raw = [item.get("answer") if isinstance(item, Mapping) else item for item in answers]
    return {"votes": tuple(text_of(item) for item in raw if not _missing(item))}


def _objects(values: Mapping[str, Any], layout: ColumnMapping, at: str) -> dict[str, Any]:
    """The COCO objects in the image and their vocabulary, if a column has them."""
    for column in layout.of("objects"):
        things = set(shipped_vocabulary("coco").names.values())
        objects = tuple(text_of(item) for item in _several(values[column]) if item is not None)
        if odd := [name for name in objects if name not in things]:
            raise DataError(
                f"{at}: '{odd[0]}' in column '{column}' is no object of COCO.{did_you_mean(odd[0], things)}"
            )
        return {"objects": objects, "vocabulary": "coco"}
    return {}


class _Filling(Formatter):
    """Fills in a question. A format of numbers, such as {score:.1f}, also takes texts of CSV files."""

    def format_field(self, value: Any, format_spec: str) -> str:
        is_number = isinstance(value, str) and format_spec.endswith(NUMBER_FORMATS)
        return str(super().format_field(_from_text(value) if is_number else value, format_spec))


def _named_in(text: str | None) -> tuple[str, ...]:
    """Columns in braces in a text. Raises ValueError if braces do not close."""
    return tuple(name for _, name, _, _ in Formatter().parse(text or "") if name is not None)


def _answers(
    values: Mapping[str, Any], source: DataSource, layout: ColumnMapping, options: tuple[str, ...], at: str
) -> tuple[str, ...]:
    """Distinct accepted answers in order. Lists may contain texts or records with the key 'answer' (VQA)."""
    column, cell = layout.of("answer")[0], _answer_cell(values, layout)
    cells = cell if isinstance(cell, list | tuple) else [cell]
    raw = [item.get("answer") if isinstance(item, Mapping) else item for item in cells]
    by_name = named_options(values, layout)
    is_name = layout.answer_is != "text" or not any(text_of(item) in options for item in raw if not _missing(item))
    answers = [
        (by_name.get(text_of(item).strip("().: ")) if is_name else None) or _answer(item, source, layout, options, at)
        for item in raw
        if not _missing(item)
    ]
    if not answers or not any(answers):
        raise DataError(f"{at} has no answer in column '{column}'. Remove the row, or name another column.")
    return tuple(dict.fromkeys(answer for answer in answers if answer))


def _answer_cell(values: Mapping[str, Any], layout: ColumnMapping) -> Any:
    """The cell of the answer; of a conversation, its first answer."""
    cell = values[layout.of("answer")[0]]
    exchange = exchange_of(cell)
    return exchange[1] if exchange else cell


def _missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _answer(item: Any, source: DataSource, layout: ColumnMapping, options: tuple[str, ...], at: str) -> str:
    text = _named(item, source, layout.of("answer")[0])
    if layout.answer_is == "class":
        return _class_of(text)
    if layout.answer_is == "number":
        return _number(item, layout, at)
    if layout.answer_is != "text" and options:
        letter = text.strip("().: ") if layout.answer_is == "letter" else ""
        letters = sorted(set(_BETWEEN_LETTERS.sub("", letter.upper())))
        if len(letters) > 1 and all(0 <= ord(one) - ord("A") < len(options) for one in letters):
            return "".join(letters)
        place = ord(letter.upper()) - ord("A") if len(letter) == 1 else _whole(text_of(item))
        if place is None or not 0 <= place < len(options):
            first = "A" if layout.answer_is == "letter" else "0"
            raise DataError(
                f"{at}: the answer {item!r} is not the {layout.answer_is} of one of its {len(options)} options "
                f"({first} is the first). Correct the column '{layout.of('answer')[0]}', or set another answer_is."
            )
        return options[place]
    if layout.answer_map is not None:
        for key in (text_of(item), text, str(_whole(text))):
            if key in layout.answer_map:
                return layout.answer_map[key]
        raise DataError(f"{at}: answer_map has no '{text}'. It has: {', '.join(layout.answer_map)}.")
    return text


def _number(item: Any, layout: ColumnMapping, at: str) -> str:
    """The number of an answer as text, rounded to `decimals`."""
    try:
        value = math.nan if isinstance(item, bool) else float(item)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{at}: the answer {item!r} in column '{layout.of('answer')[0]}' is not a number. Correct it, or remove "
            "answer_is: number."
        )
    return text_of(value) if layout.decimals is None else f"{value:.{layout.decimals}f}"


def _whole(text: str) -> int | None:
    """The whole number that a text is, also as tables write it beside missing values: 2.0."""
    return int(text.split(".", maxsplit=1)[0]) if re.fullmatch(r"-?[0-9]+(\.0+)?", text) else None
