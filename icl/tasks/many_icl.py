"""Many-shot image classification from tables of classes, as in ManyICL (Jiang et al., 2405.09798).

    path/demo.csv, path/test.csv     the first column names an image, each other column is a class: 0 or 1
    path/images/                     the images

The demonstrations are the rows of demo.csv; `retriever: balanced` takes equally many of each class, as the paper does.
Options are all classes. Use the metrics `option` or `lenient`. A row may have several classes: all are accepted.

Differs from the released code in batches of questions, which are asked one by one here.
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from icl import DataError, Example, Image, Pool, PositiveInt, SharedPoolTask, component, limited_choice, parameter
from icl.tasks.base import LimitedTask
from icl.tasks.cell_values import RelativePaths


@component("task", "many_icl")
@dataclass(frozen=True, kw_only=True)
class ManyICLTask(SharedPoolTask, RelativePaths, LimitedTask):
    """Classification of images from tables with a column for each class, with a support table of their own."""

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
