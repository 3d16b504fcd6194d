"""Does a vector of another task make the model answer by that task? Share of its answers, by intervention

    follows   share of answers that are right in the other task, from which the vectors come, for the same image and
              question
    own       share of answers that are right in the task of the query
    without   `follows` without the intervention, on the same queries and seeds
    more      follows - without, in pairs; p and interval after Holm over the table
    n         answers

The run has the same queries in several tasks that differ in their answers alone, such as `operators` with each
`operator`, and vectors of each task on the others. The name of a file of vectors identifies its task: it has words of
the task's label, as in the rows `all` of `recovery`. Queries with the same answer in both tasks are left out. Rows of
the task `all` pool the pairs of tasks; answers about one image are then one cluster.

A model that ignores the vector has `more` near 0. One that breaks answers by neither task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, make_table
from experiments.analyses.recovery import ALL_TASKS, label_without_task
from experiments.config.keys import NO_INTERVENTION
from experiments.stats import Pairs, as_sequence, corrected_tests, read_answer, text_items, to_records
from icl import DataFrame, normalize_text

QUERY = ("query", "seed", "shots")
"""The columns that an answer with an intervention and one without have in common."""


@dataclass(frozen=True, eq=False)
class FollowedTask:
    """Answers to the queries of one task under vectors of another one.

    Attributes:
        task: The task of the queries.
        of: The task of the vectors.
        intervene: The label of the intervention without the words of its task.
        scores: [n, 3] of 0 and 1: the answer follows the other task, is right in its own, and without the intervention
            follows the other task.
        images: [n], the images of the queries.
    """

    task: str
    of: str
    intervene: str
    scores: Any
    images: Sequence[Any]

    def row(self) -> dict[str, Any]:
        """The row of the table, without its test."""
        follows, own, without = self.scores.T
        interval = interval_columns(follows, self.clusters, "follows")
        names = {"task": self.task, "of": self.of, "intervene": self.intervene}
        return {**names, **interval, "own": float(own.mean()), "without": float(without.mean()), "n": len(follows)}

    @property
    def clusters(self) -> Any:
        return np.unique([" ".join(images) for images in self.images], return_inverse=True)[1]


def analyze(view: RunView) -> DataFrame:
    """One row per pair of tasks and intervention. Raises ConfigError without vectors of another task of the run."""
    every = list(_pairs(answered_samples(view, with_demos=False)))
    every += _pooled(every)
    tests = corrected_tests([Pairs(one.scores[:, 2], one.scores[:, 0], one.clusters) for one in every])
    rows = [
        one.row() | {"more": test.difference, "more_low": test.low, "more_high": test.high, "p": test.p}
        for one, test in zip(every, tests, strict=True)
    ]
    return make_table(
        rows,
        "Do answers follow another task's vector?",
        note="follows: answers of the task `of`; without: no intervention; more: difference, p and interval after Holm",
        signed=("more", "more_low", "more_high"),
        missing=f"{view.path}: no intervention has vectors of another task with the same queries. Run tasks that "
        "differ in their answers alone, and name each file of vectors by words of its task's label, such as "
        "plus.safetensors.",
    )


def _pairs(rows: DataFrame) -> Iterator[FollowedTask]:
    if "intervene" not in rows:
        return
    records = to_records(rows)
    items = {(row["task"], row["query"]): _item(row) for row in records}
    plain = {
        (row["task"], *(row[key] for key in QUERY)): read_answer(row)
        for row in records
        if row["intervene"] == NO_INTERVENTION
    }
    tasks = list(dict.fromkeys(rows["task"]))
    for (label, task), own in rows.groupby(["intervene", "task"], sort=False):
        whole = label_without_task(str(label), "")
        named = [other for other in tasks if label_without_task(str(label), other) != whole]
        if len(named) != 1 or named[0] == task:
            continue
        scores, images = [], []
        for row in to_records(own):
            before = plain.get((task, *(row[key] for key in QUERY)))
            mine, theirs = items[task, row["query"]], items.get((named[0], row["query"]))
            if before is None or theirs is None or mine[0] != theirs[0] or mine[1] & theirs[1]:
                continue
            answer = read_answer(row)
            scores.append((answer in theirs[1], answer in mine[1], before in theirs[1]))
            images.append(mine[0][0])
        if scores:
            short = label_without_task(str(label), named[0])
            yield FollowedTask(str(task), named[0], short, np.array(scores, dtype=float), images)


def _item(row: Any) -> tuple[tuple[tuple[str, ...], str], frozenset[str]]:
    """((images, question), right answers)."""
    images = tuple(map(str, as_sequence(row["images"])))
    return (images, str(row["question"])), frozenset(map(normalize_text, text_items(row, "gold")))


def _pooled(every: Sequence[FollowedTask]) -> list[FollowedTask]:
    """All pairs of tasks together, for each intervention that every pair has."""
    pairs = {(one.task, one.of) for one in every}
    same: dict[str, list[FollowedTask]] = {}
    for one in every:
        same.setdefault(one.intervene, []).append(one)
    return [
        FollowedTask(ALL_TASKS, ALL_TASKS, label, np.concatenate([one.scores for one in own]),
                     [images for one in own for images in one.images])
        for label, own in same.items()
        if len(own) == len(pairs) > 1
    ]  # fmt: skip
