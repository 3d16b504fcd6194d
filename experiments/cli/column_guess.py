"""A study of a data set from a look at its columns: names, types, and the values of some rows."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config import Document, apply_overrides, to_flow_yaml
from icl import DataError, ICLError, build
from icl.tasks import IMAGES, SPLIT_COLUMN, DataSource, exchange_of, open_source, parse_list, text_of
from icl.tasks.columns import ColumnMapping, named_options, options_of, short_columns

ROWS = 200
"""The number of rows whose values are read."""
MAX_CATEGORIES = 12
"""The largest number of values of a column that is proposed for `by`."""
SPLITS = (None, "validation", "dev", "val", "train")
"""The splits that are tried in turn; None: all rows of a file, else test."""
NAMES = {
    "question": ("question", "query", "prompt", "instruction", "q", "text"),
    "hint": ("hint", "context"),
    "image": ("image", "images", "img", "picture", "photo", "image_path", "file_name", "filename", "path", "file"),
    "answer": (
        "answer",
        "answers",
        "label",
        "labels",
        "gold",
        "target",
        "correct_answer",
        "correct",
        "class",
        "caption",
    ),
    "options": ("options", "choices", "candidates"),
    "id": ("id", "index", "question_id", "qid", "uid", "key"),
}
"""Role -> names of columns that have it, the most likely first."""
LETTERED = re.compile(r"^(?:(?:option|choice|answer)[_ ]?)?([a-h])$", re.IGNORECASE)


@dataclass
class Guess:
    """Keys of the task, with a comment for those that are unsure, and sentences on what was not found.

    Attributes:
        path: The data, relative to the folder of the study.
        names: All columns of the data.
    """

    path: str
    names: Sequence[str]
    columns: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    by: list[str] = field(default_factory=list)

    @property
    def task(self) -> dict[str, Any]:
        return {"name": "hub", "path": self.path, **self.keys, "columns": dict(self.columns)}

    def lines(self, task: Mapping[str, Any]) -> Iterator[str]:
        """The lines of an experiment file with a task: this one, maybe with other keys."""
        yield "task:"
        for key, value in task.items():
            if key == "columns":
                yield "  columns:"
                yield from (self._line(role, column, "    ") for role, column in value.items())
            else:
                yield self._line(key, value, "  ")

    def _line(self, key: str, value: Any, indent: str) -> str:
        guessed = value == {**self.keys, **self.columns}.get(key)
        comment = f"  # {self.comments[key]}" if guessed and key in self.comments else ""
        return f"{indent}{key}: {to_flow_yaml(value)}{comment}"


def study_of_data(template: str, data: Path, folder: Path) -> tuple[str, list[str]]:
    """The text of a study whose task is the data, and sentences on what could not be guessed.

    Args:
        template: The study on a shipped task.
        data: A file or folder.
        folder: The folder of the study, to which its path is relative.

    Raises:
        DataError: The data cannot be read.
    """
    guess = guess_task(data, folder)
    lines = [*guess.lines(guess.task)]
    if "answer" not in guess.columns:
        names = ", ".join(map(to_flow_yaml, guess.names))
        lines.append(f"    answer:  # write the column of the answers here; there are {names}")
    if guess.by:
        lines.append(f"# by: {to_flow_yaml(guess.by)}  # a table for each value")
    text = re.sub(r"^task: .*$", lambda _: "\n".join(lines), template, flags=re.MULTILINE)
    if "image" not in guess.columns:
        text = text.replace("{name: knn, by: image}", "{name: knn, by: question}").replace("[greedy, vcd]", "[greedy]")
    shots = _check(guess.task, data, guess) if "answer" in guess.columns else None
    return text.replace("shots: [0, 4]", f"shots: {shots}") if shots else text, guess.notes


def guess_task(data: Path, folder: Path) -> Guess:
    """The task that data are, from a look at names and values of their columns. Raises DataError."""
    source, split = _opened(data)
    guess = Guess(os.path.relpath(str(data), str(folder)), source.columns)
    _guess(guess, source, split, has_train=split != "train" and data.is_dir() and _has_train(data))
    return guess


def with_overrides(
    command: str, start: dict[str, Any], folder: Path, overrides: Sequence[str] | None
) -> dict[str, Any]:
    """Keys of a study with overrides. A task of another name has the path of the guessed one, and none of its keys.

    Args:
        command: The command, for messages.
        start: The keys, with the guessed task.
        folder: The folder to which paths are relative.
    """
    keys: dict[str, Any] = apply_overrides(Document(command, folder, start), overrides or []).data
    if keys["task"]["name"] != start["task"]["name"]:
        other = {"name": keys["task"]["name"], "path": start["task"]["path"]}
        keys = apply_overrides(Document(command, folder, {**start, "task": other}), overrides or []).data
    return keys


def _opened(data: Path) -> tuple[DataSource, str | None]:
    """The data and the split that it is. Raises the first error if it has no split of a usual name."""
    if not data.exists():
        raise DataError(f"there is no file or folder {data}.")
    first: DataError | None = None
    for split in SPLITS if data.is_dir() else SPLITS[:1]:
        try:
            return open_source(str(data.resolve()), None, split), split
        except DataError as error:
            first = first or error
    raise first or DataError(f"{data} has no split.")


def _has_train(folder: Path) -> bool:
    try:
        return bool(open_source(str(folder.resolve()), None, "train").columns)
    except DataError:
        return False


def _guess(guess: Guess, source: DataSource, split: str | None, *, has_train: bool) -> None:
    """Maps the columns. has_train: whether a folder also has the split `train`."""
    rows = source.data.select(range(min(ROWS, len(source))))
    values = {name: [value for value in rows[name] if value is not None] for name in source.columns}
    free = dict.fromkeys(source.columns)

    def take(role: str, names: Sequence[str], comment: str = "") -> None:
        guess.columns[role] = names[0] if len(names) == 1 else list(names)
        if comment:
            guess.comments[role] = comment
        for name in names:
            free.pop(name, None)

    if has_train:
        guess.keys |= {"split": split or "test", "pool_split": "train"}
    elif split is not None:
        guess.keys["split"] = split
    elif SPLIT_COLUMN in source.columns:
        _split_keys(guess, sorted(set(map(str, source.data[SPLIT_COLUMN]))))
    images = [name for name in free if _is_image(source, name, values[name])]
    if images:
        named = _named("image", images)
        take("image", named or images, "" if named else "guess: they look like images")
    lettered = [name for name in free if LETTERED.match(name)]
    lists = [name for name in free if values[name] and all(map(_is_list, values[name]))]
    if len(lettered) > 1:
        take("options", sorted(lettered))
    elif options := _named("options", lists):
        take("options", options)
    talks = [name for name in free if values[name] and all(exchange_of(value) for value in values[name])]
    if talks:
        take("question", talks[:1])
        take("answer", talks[:1])
    for role in ("id", "hint") if talks else ("question", "answer", "id", "hint"):
        names = _named(role, list(free))
        if names and role == "id" and len(set(source.data[names[0]])) < len(source):
            guess.notes.append(f"Several rows have the same '{names[0]}', so rows are identified by their numbers.")
        elif names:
            take(role, names)
    texts = [name for name in free if values[name] and all(isinstance(value, str) for value in values[name])]
    if "question" not in guess.columns and (questions := [n for n in texts if all("?" in v for v in values[n])]):
        take("question", questions[:1], "guess: each row has a question mark")
    _missing_roles(guess, source, values)
    if "answer" not in guess.columns:
        return
    _answer_keys(guess, source, rows)
    categories = short_columns(source, ColumnMapping(guess.columns, "?"))
    guess.by = [n for n in categories if n in free and n != SPLIT_COLUMN and 1 < len({*values[n]}) <= MAX_CATEGORIES]


def _missing_roles(guess: Guess, source: DataSource, values: dict[str, list[Any]]) -> None:
    """Notes on roles that no column has."""
    if "question" not in guess.columns:
        guess.keys["question"] = "What is this?"
        guess.comments["question"] = "no column has questions: this one is for all rows"
        guess.notes.append(
            "No column has questions, so every row is asked the same: change `question`, or set `columns.question`."
        )
    if "answer" not in guess.columns:
        guess.notes.append(
            f"No column of answers was found among {', '.join(source.columns)}: set `task.columns.answer`."
        )
    if "image" not in guess.columns and (named := _named("image", source.columns)) and values[named[0]]:
        is_benchmark = guess.path.endswith(".tsv") and {"index", "question", "answer"} <= {*source.columns}
        guess.notes.append(
            f"The column '{named[0]}' has no images and no paths of images: {values[named[0]][0]!r:.40}. "
            + (
                "A file of VLMEvalKit, with images in base64, is read by task.name=vlmevalkit."
                if is_benchmark
                else "Save the images as files, and name one file, or a list of files, in each row."
            )
        )
    elif "image" not in guess.columns:
        guess.notes.append("No column has images, so the study asks without images. Else set `columns.image`.")
    if len(source) < 2:
        guess.notes.append("The data has one row, so no row is left as a demonstration. Add rows.")


def _split_keys(guess: Guess, splits: Sequence[str]) -> None:
    """The split of the queries and of the pool by the values of the column `split`."""
    queries = next((name for name in ("test", "validation", "dev", "val") if name in splits), None)
    if queries is None or len(splits) < 2:
        guess.notes.append(
            f"The column '{SPLIT_COLUMN}' has {', '.join(splits[:8])}: set `split` and `pool_split`, or queries and "
            "demonstrations are drawn from all rows."
        )
        return
    guess.keys["split"] = queries
    if "train" in splits:
        guess.keys["pool_split"] = "train"
    guess.comments["split"] = f"values of the column: {', '.join(map(to_flow_yaml, splits))}"


def _answer_keys(guess: Guess, source: DataSource, rows: Any) -> None:
    """How answers point to options, and whether answers are classes. Answers may be options, or names of options."""
    column = guess.columns["answer"]
    if "options" not in guess.columns:
        if getattr(source.features[column], "names", None):
            guess.keys["answer_is"] = "class"
        return
    layout = ColumnMapping({"answer": column, "options": guess.columns["options"]}, "?")
    answered = list[tuple[str, bool]]()
    for row in rows:
        try:
            accepted = {*options_of(row, layout, ""), *named_options(row, layout)}
        except DataError:  # the reader of the task reports it with its row
            return
        if not accepted:  # an open question, whose answer is a text
            continue
        cells = row[column] if isinstance(row[column], list) else [row[column]]
        answered += [(text_of(cell), text_of(cell) in accepted) for cell in cells if cell is not None]
    if all(is_option for _, is_option in answered):
        return
    if all(answer.isdigit() for answer, _ in answered):
        guess.keys["answer_is"] = "index"
        guess.comments["answer_is"] = f"guess: answers are such as {answered[0][0]}, and 0 is the first option"
    elif all(re.fullmatch(r"\(?[A-Za-z][).]?", answer) for answer, _ in answered):
        guess.keys["answer_is"] = "letter"
        guess.comments["answer_is"] = f"guess: answers are such as {answered[0][0]}"


def _check(task: dict[str, Any], data: Path, guess: Guess) -> list[int] | None:
    """The numbers of shots if the pool is small; None for those of the template. What does not work becomes a note."""
    try:
        built = build("task", {**task, "path": str(data.resolve())})
        size = built.pool_size if built.queries else 0
    except ICLError as error:
        guess.notes.append(f"The data cannot be used as guessed: {error} `icl data check {data}` counts such rows.")
        return None
    image = next((image for query in built.queries[:1] for image in query.images), None)
    try:
        if image is not None:
            image.open()
    except ICLError as error:
        guess.notes.append(f"The first image cannot be opened: {error}")
    return [0, size] if size < 4 else None


def _named(role: str, names: Sequence[str]) -> list[str]:
    """The column that most likely has a role, by its name; empty if no name fits."""
    by_name = {name.lower(): name for name in reversed(names)}
    return [by_name[name] for name in NAMES[role] if name in by_name][:1]


def _is_image(source: DataSource, name: str, values: Sequence[Any]) -> bool:
    """Whether a column has images, lists of images, or paths of image files."""
    feature = source.data.features[name]
    if "Image(" in repr(feature):
        return True
    cells = [cell for value in values for cell in (value if isinstance(value, list) else [value])]
    return bool(cells) and all(isinstance(cell, str) and Path(cell).suffix.lower() in IMAGES for cell in cells)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | dict) or (isinstance(value, str) and parse_list(value) is not None)
