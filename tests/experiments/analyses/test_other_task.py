"""Whether answers under a vector of another task are the results of that task."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from experiments.analyses.other_task import analyze
from icl.errors import ConfigError

RESULTS = {"plus": lambda i: i + i % 3, "minus": lambda i: i - i % 3, "times": lambda i: i * (i % 3)}
OWN, RANDOM = "v(fitted={}-v.safetensors)", "v(fitted={}-v.safetensors, control=random)"


def view_of(answer: Any, labels: tuple[str, ...] = (OWN, RANDOM), tasks: tuple[str, ...] = ("plus", "minus")) -> Any:
    """A run of 30 images in each task: `answer` gives the answer to (image, task, task of the vector, label)."""
    arms = [("none", "", "none"), *((label.format(of), of, label) for label in labels for of in RESULTS)]
    rows = [
        {"query": f"q{i}", "seed": 0, "shots": 0, "task": task, "intervene": label, "failed": None,
         "images": [f"image {i}"], "question": "result?", "gold": [str(RESULTS[task](i))], "options": None,
         "output": str(answer(i, task, of, kind))}
        for task in tasks for label, of, kind in arms for i in range(30)
    ]  # fmt: skip
    return SimpleNamespace(frame=pd.DataFrame(rows), path="x")


def obedient(i: int, task: str, of: str, label: str) -> int:
    """Answers by the vector's own task, or without one and under its control by the task of the query."""
    return RESULTS[of if label == OWN else task](i)


def test_answers_of_the_task_of_the_vector_are_counted_and_tested_against_none() -> None:
    table = analyze(view_of(obedient)).set_index(["task", "of", "intervene"])
    own = table.loc[("plus", "minus", "v(fitted=v)")]
    assert (own["n"], own["follows"], own["own"], own["without"], own["more"]) == (20, 1, 0, 0, 1)
    assert own["more_low"] > 0.5
    assert own["p"] < 0.001
    control = table.loc[("plus", "minus", "v(fitted=v, control=random)")]
    assert (control["follows"], control["own"], control["more"], control["p"]) == (0, 1, 0, 1)
    pooled = table.loc[("all", "all", "v(fitted=v)")]
    assert (pooled["n"], pooled["follows"]) == (40, 1)
    assert len(table) == 2 * 2 + 2


def test_queries_with_one_answer_in_both_tasks_are_left_out() -> None:
    """A model that repeats the number of the image is right for every third image in both tasks."""
    table = analyze(view_of(lambda i, *_: i))
    assert (table["follows"] == 0).all()
    assert set(table["n"]) == {20, 40}


def test_broken_answers_follow_nothing() -> None:
    table = analyze(view_of(lambda *_: "x")).set_index(["task", "of", "intervene"])
    assert (table[["follows", "own", "more"]] == 0).all(axis=None)


def test_a_run_without_vectors_of_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="no intervention has vectors of another task"):
        analyze(view_of(obedient, ("v(fitted=mine.safetensors)",)))
    with pytest.raises(ConfigError, match="no intervention has vectors of another task"):
        analyze(view_of(obedient, tasks=("plus",)))
