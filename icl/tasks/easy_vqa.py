"""easy-VQA (Victor Zhou, 2020; MIT): one colored shape on a light background and short questions about it.

The PyPI package `easy-vqa` contains 4,000 train images with 38,575 questions and 1,000 test images with 9,673. The
train split is the support pool, the test split the queries. The majority answer is right for .37 of the test questions,
so compare scores with text-only baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from icl import DataError, Example, Image, Pool, PositiveInt, SharedPoolTask, component, limited_choice, parameter

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
