"""VLMEvalKit's data files (TSV) as they are, such as MMBench_DEV_EN.tsv. No code of VLMEvalKit runs.

    index, question, answer     one question a row; A, B, C, … are its options, and the answer is then a letter
    image                       base64, a list of these as text, or the index of the row that has the image
    image_path                  a path, or a list as text, relative to the file, where there is no image
    hint, category, split, …    `hint` is a part of the prompt; `meta` stores other columns

The prompt of a question with options is VLMEvalKit's: hint, question, options by letters, and the request to select
one. Demonstrations have the same form, and their answer is the letter. `listed: false` leaves the options out of the
question, so that `option_list` can list them.

Rows that share an image, or are rotations of the options of one question (CircularEval: the index modulo 1,000,000),
are one group: intervals are clustered by it, and no image is on both sides of the division. CircularEval's score
counts a question as right only if all its rotations are: `{name: group_accuracy, by: question}`.

Differs from the released code in cells "NA" and "None", which are answers here and missing values there.
"""

import base64
import binascii
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase

from icl import PIL, SEARCH_FOLDERS, Example, Image, OptionListing, decode_image, pd, search_candidates
from icl.errors import ConfigError, DataError, did_you_mean
from icl.registry import Fraction, PositiveInt, component, parameter
from icl.tasks import connected_components, divide_by_group, parse_list
from icl.tasks.base import LimitedTask, Pool, SharedPoolTask, limited_choice

MAX_REFERENCE_CHARACTERS = 64
"""A shorter cell of the column `image` is the index of the row that has the image (`ImageBaseDataset`)."""

ROTATION_DIGITS = 6
"""The indices of a question's rotations share this number of last digits: they differ by multiples of 1,000,000."""

LISTING = OptionListing(
    "\nOptions:\n{options}\nPlease select the correct answer from the options above. \n", "\n", letters=True
)
"""The options of a prompt (`ImageMCQDataset.build_prompt`). The file gives their letters, and may leave some out."""

Row = Mapping[str, str]


@component("task", "vlmevalkit")
@dataclass(frozen=True, kw_only=True)
class VLMEvalKitTask(SharedPoolTask, LimitedTask):
    """A data file of VLMEvalKit (TSV): questions with options by letters, or with open answers."""

    path: str  # the TSV file, relative to the experiment file or the working directory
    split: str | None = None  # value of the column `split` of the queries; None: all rows
    pool_split: str | None = None  # value of the column `split` of the pool; None: the queries' rows are divided
    pool_fraction: Fraction = 0.5  # share of the groups of divided rows that become the pool
    listed: bool = True  # whether the question lists its options, so that answers are letters
    meta: tuple[str, ...] = ("category",)  # columns to store with each sample, where the file has them; never the gold
    support_limit: PositiveInt | None = parameter("pool_size", None)  # number of pool examples, nested; None: all

    def __post_init__(self) -> None:
        _ = self._file
        if "answer" in self.meta:
            raise ConfigError("meta: the column 'answer' is the gold answer, which must not be in meta.")
        if "question" in self.meta:
            raise ConfigError("meta: 'question' is the number of the question, which each sample has. Remove it.")
        if self.pool_split is not None and self.pool_split == self.split:
            raise ConfigError(f"pool_split '{self.pool_split}' is also the split of the queries. Remove it.")

    @property
    def title(self) -> str:
        return Path(self.path).stem

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        chosen = self._choice(self._divided[0], self.query_limit, "queries")
        first = [self._groups[place] for place in chosen]
        return tuple(
            replace(self._example(place), group=f"rows like {self._rows[group]['index']}")
            for place, group in zip(chosen, first, strict=True)
        )

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(map(self._example, self._choice(self._divided[1], self.support_limit, "pool_size"))))

    @cached_property
    def _file(self) -> Path:
        """The file, searched when the task is made."""
        places = search_candidates(self.path, SEARCH_FOLDERS.get())
        return next((place for place in places if os.path.isfile(place)), places[0])

    @cached_property
    def _rows(self) -> list[Row]:
        """The rows with an image, in the order of the file."""
        rows = _read(self._file)
        key = "image" if "image" in rows[0] else "image_path"
        with_image = [row for row in rows if row[key]]
        if not with_image:
            raise DataError(f"{self.path}: no row has an image. The column '{key}' is empty.")
        return with_image

    @cached_property
    def _by_index(self) -> Mapping[str, Row]:
        by_index = {row["index"]: row for row in self._rows}
        if len(by_index) < len(self._rows):
            raise DataError(f"{self.path}: two rows have the same index. Indices must be unique.")
        return by_index

    @cached_property
    def _groups(self) -> list[int]:
        """For each row, the place of the first row that has the same image or is a rotation of the same question."""
        return connected_components(
            [[f"question {_question(row)}", *map(str, self._sources(row))] for row in self._rows]
        )

    @cached_property
    def _divided(self) -> tuple[list[int], list[int]]:
        """Places of the rows of the queries and of the pool."""
        rows = self._of_split(self.split)
        if self.pool_split is not None:
            return rows, self._of_split(self.pool_split)
        names = [f"row {self._rows[self._groups[place]]['index']}" for place in rows]
        queries, pool = divide_by_group(names, self.pool_fraction, self.seed, "vlmevalkit/division", self.path)
        return [rows[i] for i in queries], [rows[i] for i in pool]

    def _of_split(self, split: str | None) -> list[int]:
        names = dict.fromkeys(row.get("split", "") for row in self._rows)
        if split is not None and split not in names:
            listed = ", ".join(name for name in names if name) or "no column split"
            raise DataError(f"{self.path} has no split '{split}'.{did_you_mean(split, names)} It has: {listed}.")
        return [place for place, row in enumerate(self._rows) if split in (None, row.get("split", ""))]

    def _choice(self, places: Sequence[int], limit: int | None, key: str) -> list[int]:
        names, whole = [self._rows[place]["index"] for place in places], f"available rows of {self.path}"
        return [places[i] for i in limited_choice(names, limit, self.seed, f"vlmevalkit/{key}", key=key, whole=whole)]

    def _example(self, place: int) -> Example:
        row = self._rows[place]
        options = {letter: row[letter] for letter in ascii_uppercase if row.get(letter)}
        answer = row["answer"]
        if not answer:
            raise DataError(f"{self.path}, index {row['index']} has no answer. Use a split with public answers.")
        if options and answer not in options:
            raise DataError(
                f"{self.path}, index {row['index']}: the answer '{answer}' is none of the letters {', '.join(options)}."
            )
        by_letter = self.listed and bool(options)
        return Example(
            id=row["index"],
            images=tuple(self._image(row, number, source) for number, source in enumerate(self._sources(row))),
            question=prompt(row, options if self.listed else {}),
            answers=(answer, options[answer]) if by_letter else (options.get(answer, answer),),
            options=tuple(options) if by_letter else tuple(options.values()),
            meta={"question": _question(row), **{key: row[key] for key in self.meta if key in row}},
        )

    def _sources(self, row: Row) -> list[str]:
        """The images of a row, as base64 or as paths."""
        cell = row.get("image", "")
        if not cell:
            return _listed(row["image_path"])
        if len(cell) <= MAX_REFERENCE_CHARACTERS:
            other = self._by_index.get(cell)
            if other is None or len(other["image"]) <= MAX_REFERENCE_CHARACTERS:
                raise DataError(
                    f"{self.path}, index {row['index']}: its image is that of index {cell}, which has none."
                )
            cell = other["image"]
        return _listed(cell)

    def _image(self, row: Row, number: int, source: str) -> Image:
        origin = f"{self.path}, index {row['index']}, image {number}"
        if row.get("image"):
            return Image.from_source(Base64Image(source), origin)
        folder = self._file.parent.resolve()
        try:
            path = (folder / source).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a NUL byte, or links in a circle
            raise DataError(f"{origin}: {source!r:.200} is not a path ({error}).") from error
        if not path.is_relative_to(folder):
            raise DataError(f"{origin}: the path '{source}' points outside the folder of the file.")
        return Image.from_path(path, origin)


@dataclass(frozen=True)
class Base64Image:
    """A loader of an image in base64."""

    text: str

    def __call__(self) -> "PIL.Image.Image":
        try:
            return decode_image(base64.b64decode(self.text, validate=True))
        except binascii.Error as error:
            raise ValueError(f"it is not base64 ({error})") from error


def prompt(row: Row, options: Mapping[str, str]) -> str:
    """The question as `ImageMCQDataset.build_prompt` writes it; the question alone if it has neither hint nor options.

    Args:
        row: The columns `question` and `hint`.
        options: Letter -> text.
    """
    hint = f"Hint: {row['hint']}\n" if row.get("hint") else ""
    if not options:
        return hint + row["question"]
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    return LISTING.write(f"{hint}Question: {row['question']}", lines)


def _question(row: Row) -> str:
    """The number of the question, which its rotations share."""
    index = row["index"]
    return str(int(index[-ROTATION_DIGITS:])) if index.isdecimal() else index


def _listed(cell: str) -> list[str]:
    """The texts of a list that is written as Python writes it, or the one text."""
    items = parse_list(cell)
    return [cell] if items is None else [str(item) for item in items]


def _read(path: Path) -> list[Row]:
    """All rows, with every cell as text. Raises DataError."""
    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}. Give the path of a TSV file of VLMEvalKit.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a TSV file: {str(error).splitlines()[0]}.") from error
    for name in ("index", "question", "answer"):
        if name not in frame:
            raise DataError(f"{path} has no column '{name}'. Its columns: {', '.join(map(str, frame.columns))}.")
    if "image" not in frame and "image_path" not in frame:
        raise DataError(f"{path} has neither a column 'image' nor 'image_path'.")
    if not len(frame):
        raise DataError(f"{path} has no rows.")
    return [{str(name): str(cell) for name, cell in row.items()} for row in frame.to_dict("records")]
