"""Benchmarks of one label a question for in-context learning: Easy-VQA, ManyICL and MMLongBench's in-context part."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl import (
    DataError,
    Example,
    Image,
    Pool,
    PositiveInt,
    SharedPoolTask,
    StreamKey,
    component,
    limited_choice,
    parameter,
)
from icl.tasks.base import LimitedTask, SeveralPoolsTask
from icl.tasks.cell_values import RelativePaths
from icl.tasks.generated.episode import choice, shuffled

QuestionType = Literal["yes/no", "shape", "color"]

OPTIONS: Mapping[QuestionType, tuple[str, ...]] = {
    "yes/no": ("yes", "no"),
    "shape": ("circle", "rectangle", "triangle"),
    "color": ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow"),
}
"""The answers of each type of question, from which option scoring chooses: 13 answers in total."""


def question_type(question: str) -> QuestionType:
    """The type of a question, from its wording only. So it is as public as the question."""
    if not question.startswith("what"):
        return "yes/no"
    return "color" if question.startswith(("what color", "what is the color")) else "shape"


@component("task", "easy-vqa")
@dataclass(frozen=True)
class EasyVQATask(SharedPoolTask):
    """Questions about one colored shape. Support pool: train split; queries: test split (PyPI `easy-vqa`).

    easy-VQA (Victor Zhou, 2020; MIT): one colored shape on a light background and short questions about it.

    The PyPI package `easy-vqa` contains 4,000 train images with 38,575 questions and 1,000 test images with 9,673. The
    train split is the support pool, the test split the queries. The majority answer is right for .37 of the test
    questions, so compare scores with text-only baselines.

    Questions about one image share a group. `meta` holds the type of a question, and the options are the answers of
    that type. By default the pool has 1,000 of the 38,575 train questions, so an image retriever embeds 869 images
    instead of 4,000. Images are opened when they are used.
    """

    title: ClassVar[str] = "easy-vqa"

    query_limit: PositiveInt | None = parameter("queries", None)  # test questions, nested; None: all 9,673
    support_limit: PositiveInt | None = parameter("pool_size", 1000)  # train questions, nested; None: all 38,575
    seed: int = 0  # random seed of the two choices, independent of the seeds of a run

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return _questions("test", self.query_limit, self.seed)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(_questions("train", self.support_limit, self.seed))


def _questions(split: Literal["train", "test"], limit: int | None, seed: int) -> tuple[Example, ...]:
    try:
        import easy_vqa
    except ModuleNotFoundError as error:
        raise DataError(
            "task 'easy-vqa' reads the package easy-vqa, which is not installed. Install it with: pip install easy-vqa"
        ) from error
    read, find = (
        (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths)
        if split == "train"
        else (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths)
    )
    questions, answers, numbers = read()
    ids = [f"{split}-{row:05d}" for row in range(len(questions))]
    key, whole = "queries" if split == "test" else "pool_size", f"{split} questions of easy-vqa"
    rows = limited_choice(ids, limit, seed, f"easy-vqa/{split}", key=key, whole=whole)
    paths = find()
    images = {
        number: Image.from_path(paths[number], f"easy-vqa/{split}/{number}.png")
        for number in {numbers[row] for row in rows}
    }
    return tuple(
        Example(
            id=ids[row],
            images=(images[numbers[row]],),
            question=questions[row],
            answers=(answers[row],),
            options=OPTIONS[question_type(questions[row])],
            label=answers[row],
            group=f"{split}-image-{numbers[row]}",
            meta={"type": question_type(questions[row]), "split": split},
        )
        for row in rows
    )


@component("task", "many_icl")
@dataclass(frozen=True, kw_only=True)
class ManyICLTask(SharedPoolTask, RelativePaths, LimitedTask):
    """Classification of images from tables with a column for each class, with a support table of their own.

    Many-shot image classification from tables of classes, as in ManyICL (Jiang et al., 2405.09798).

        path/demo.csv, path/test.csv     the first column names an image, each other column is a class: 0 or 1
        path/images/                     the images

    The demonstrations are the rows of demo.csv; `retriever: balanced` takes equally many of each class, as the paper
    does. Options are all classes. Use the metrics `option` or `lenient`. A row may have several classes: all are
    accepted.

    Differs from the released code in batches of questions, which are asked one by one here.
    """

    path: str  # folder with demo.csv, test.csv and the folder images
    question: str = "What is in the image?"  # question of all rows
    support_limit: PositiveInt | None = parameter("pool_size", None)  # number of pool examples, nested; None: all

    @property
    def title(self) -> str:
        return Path(self.path).name

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return self._chosen("test", self.query_limit, "queries")

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self._chosen("demo", self.support_limit, "pool_size"))

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.path)

    def _chosen(self, split: Literal["demo", "test"], limit: int | None, key: str) -> tuple[Example, ...]:
        examples = self._read(split)
        ids, whole = [e.id for e in examples], f"rows of {self._folder / split}.csv"
        chosen = limited_choice(ids, limit, self.seed, f"many_icl/{split}", key=key, whole=whole)
        return tuple(examples[i] for i in chosen)

    def _read(self, split: Literal["demo", "test"]) -> list[Example]:
        path = self._folder / f"{split}.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(
                f"ManyICL: {path} cannot be read as a table ({error}). A folder has demo.csv, test.csv and images."
            ) from error
        return [self._example(split, path, number, tuple(header[1:]), row) for number, row in enumerate(rows, 2) if row]

    def _example(self, split: str, path: Path, number: int, classes: tuple[str, ...], row: list[str]) -> Example:
        at = f"ManyICL: {path}:{number}"
        try:
            answers = tuple(name for name, value in zip(classes, row[1:], strict=True) if float(value) > 0)
        except ValueError as error:
            raise DataError(f"{at} has not a number for each of the {len(classes)} classes: {error}.") from error
        if not answers:
            raise DataError(f"{at} has no class.")
        return Example(
            id=f"{split}-{row[0]}",
            images=(Image.from_path(self._folder / "images" / row[0], f"ManyICL {row[0]}"),),
            question=self.question,
            answers=answers,
            options=classes,
            label=answers[0],
        )


QUESTION = "What is the label of this image?"


@component("task", "mmlongbench_icl")
@dataclass(frozen=True, kw_only=True)
class MMLongBenchICLTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """Images with numbered labels that only the demonstrations of the query's set explain.

    The in-context part of MMLongBench (Wang et al., 2505.10610): many-shot classification of images by numbered labels.

    The released JSON file has, for each domain, several sets of demonstrations (`exemplar_list`, rounds of {image, id})
    and queries (`test_example`, {image, answer}). A query gets one of the sets of its domain, drawn for it, with the
    demonstrations shuffled within each round. Labels are numbers, so only the demonstrations tell what they mean.
    Metrics: `strict` or `lenient`; the released score reads the text after "label:".

    Differs from the released code in the number of demonstrations, which is the context length there (8K to 128K
    tokens).
    """

    path: str  # JSON file of the release
    images: str  # folder to which image paths are relative

    @property
    def title(self) -> str:
        return f"MMLongBench ICL {Path(self.path).stem}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        tests = [
            (f"{domain}-{number:05d}", domain, test)
            for domain, data in self._domains.items()
            for number, test in enumerate(data["test_example"])
        ]
        names = [name for name, *_ in tests]
        chosen = limited_choice(
            names, self.query_limit, self.seed, "mmlongbench_icl", key="queries", whole=f"of {self.path}"
        )
        return tuple(
            self._example(name, domain, test["image"], test["answer"])
            for name, domain, test in (tests[i] for i in chosen)
        )

    def pool_key(self, query_id: str) -> str | None:
        return query_id if query_id.rpartition("-")[0] in self._domains else None

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        rng, domain = StreamKey(self.seed, key).numpy("mmlongbench_icl/demonstrations"), key.rpartition("-")[0]
        rounds = choice(rng, self._domains[domain]["exemplar_list"])
        items = [item for one in rounds for item in shuffled(rng, one)]
        return tuple(
            self._example(f"{key}-s{i:04d}", domain, item["image"], item["id"]) for i, item in enumerate(items)
        )

    @property
    def pool_size(self) -> int:
        sets = [one for data in self._domains.values() for one in data["exemplar_list"]]
        return min(sum(map(len, one)) for one in sets)

    def _example(self, name: str, domain: str, image: str, answer: Any) -> Example:
        answers = answer if isinstance(answer, list) else [answer]
        return Example(
            id=name,
            images=(Image.from_path(self._folder / image, f"MMLongBench {image}"),),
            question=QUESTION,
            answers=tuple(map(str, answers)),
            label=str(answers[0]),
            domain=domain,
        )

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.images)

    @cached_property
    def _domains(self) -> dict[str, Any]:
        path = self._place(self.path)
        try:
            domains = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"MMLongBench: {path} cannot be read as JSON ({error}). Give a file of its ICL part."
            ) from error
        if not isinstance(domains, dict) or not all(map(_is_domain, domains.values())):
            raise DataError(f"MMLongBench: {path} must map domains to exemplar_list and test_example.")
        return domains


def _is_domain(data: Any) -> bool:
    return isinstance(data, dict) and bool(data.get("exemplar_list")) and bool(data.get("test_example"))
