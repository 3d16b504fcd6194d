"""Benchmarks of visual questions with their own kinds of answers: CMMU and Winoground."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl import ConfigError, DataError, Example, Image, Pool, SharedPoolTask, StreamKey, nested_choice
from icl.registry import Fraction, PositiveInt, component, later_parameter
from icl.tasks import DataSource, RelativePaths, cell_images, open_source, read_json_lines, text_of
from icl.tasks.base import LimitedTask

QuestionType = Literal["multiple-choice", "multiple-response", "fill-in-the-blank"]
KEYS = ("id", "type", "question_info", "answer", "images")
ADVICE = "The data set is BAAI/CMMU on the Hugging Face hub; give the path of its JSON lines."
META = ("type", "grade_band", "subject", "difficulty")
Row = Mapping[str, Any]


@component("task", "cmmu")
@dataclass(frozen=True)
class CMMUTask(SharedPoolTask, RelativePaths, LimitedTask):
    """CMMU's questions with one or several right options, or with a blank to fill in.

    CMMU (He et al., 2401.14011): school questions in Chinese of three types, from the released JSON lines and images.

        multiple-choice      the options are listed by `option_list`; `option_shift` is the published ShiftCheck
        multiple-response    the options are listed in the question, and the answer is their letters, such as "ABD"
        fill-in-the-blank    one question for each blank (`sub_questions`)

    The metric `cmmu` scores the second and the third type as released, and the first one like `lenient` does.

    Differs from the released code in the pool: half of the questions by default are demonstrations, which CMMU does not
    have.
    """

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
        rows = [row for row in read_json_lines(self._file, KEYS, "CMMU", ADVICE) if row["type"] in self.types]
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


COLUMNS = ("image_0", "image_1", "caption_0", "caption_1")


@component("task", "winoground")
@dataclass(frozen=True)
class WinogroundTask(SharedPoolTask, RelativePaths):
    """Yes/no questions whether a caption matches an image, from Winoground or similar data.

    Winoground (Thrush et al., CVPR 2022): two images and two captions with the same words, as four yes/no questions.

    An item of the data has `image_0`, `caption_0`, `image_1` and `caption_1`. Each caption is combined with each image.
    The metrics `winoground_text`, `winoground_image` and `winoground_group` read the four answers. Use `answer_mode:
    options`. Access to the data set (hub id facebook/winoground) must be requested. Other data with these columns work
    too.

    An item has two captions with each of two images. The pool is a share of the items, the queries are the others. All
    four questions of an item are on one side.
    """

    title: ClassVar[str] = "winoground"

    path: str = "facebook/winoground"  # hub id, folder or file
    revision: str | None = later_parameter(None)  # branch, tag or commit of a hub data set; None: the newest
    split: str | None = later_parameter(None, "test")  # split that is divided; None: all rows of a file, or test
    question: str = 'does the caption "{caption}" match the image?'  # question with the placeholder {caption}
    pool_fraction: Fraction = 0.5  # share of the items that become the pool
    items: PositiveInt | None = None  # number of items, four questions each; a nested choice; None: all
    seed: int = 0  # random seed of choice and division, independent of the seeds of a run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.question.count("{caption}") != 1:
            raise ConfigError("question has {caption} once: what is asked about the image.")

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = self._rows[self._cut :]
        if self.items is not None and self.items > len(rows):
            raise DataError(
                f"items: {self.items} is more than the {len(rows)} items that are asked. Use a smaller number."
            )
        return tuple(self._questions(rows[: self.items], "query"))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._questions(self._rows[: self._cut], "pool")))

    @property
    def pool_size(self) -> int:
        return 4 * self._cut

    @property
    def _cut(self) -> int:
        return round(self.pool_fraction * len(self._rows))

    @cached_property
    def _source(self) -> DataSource:
        source = open_source(self.path, None, self.split, revision=self.revision, folders=self._folders)
        missing = [column for column in COLUMNS if column not in source.columns]
        if missing:
            raise DataError(
                f"{source.name} has no column {' and '.join(missing)}: an item is {', '.join(COLUMNS)}. "
                f"Columns: {', '.join(source.columns)}."
            )
        return source

    @property
    def data_revision(self) -> str:
        """The id and commit of the data set of the hub."""
        return self._source.revision

    @cached_property
    def _rows(self) -> list[int]:
        """All items in a random order."""
        names = [f"item-{i}" for i in range(len(self._source))]
        return nested_choice(names, len(names), self.seed, "winoground")

    def _questions(self, rows: list[int], split: Literal["query", "pool"]) -> Iterator[Example]:
        views = [self._source.data.select_columns([f"image_{i}"]) for i in (0, 1)]
        captions = self._source.data.select_columns(list(COLUMNS[2:]))
        for row in rows:
            name = f"winoground-{split}-{row:04d}"
            turned = StreamKey(self.seed, name).number("turned", 2)  # which caption and which image is called 0
            values = captions[row]
            for place in range(4):
                caption, image = (place >> 1) ^ (turned >> 1), (place & 1) ^ (turned & 1)
                answer = "yes" if caption == image else "no"
                yield Example(
                    id=f"{name}-{place}",
                    images=tuple(cell_images(views[image], self._source, f"image_{image}", row)),
                    question=self.question.replace("{caption}", text_of(values[f"caption_{caption}"])),
                    answers=(answer,),
                    options=("yes", "no"),
                    label=answer,
                    group=name,
                    meta={"caption": place >> 1, "image": place & 1},
                )
