"""Subjects of findings on small frames: their words, their rows, and the settings that two arms share."""

import pandas as pd
import pytest

from experiments.stats.subjects import drop_unscored_tasks, shared_settings, split_by_subject

AXES = ["task", "shots", "order", "decoding"]


def frame(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=AXES)


def test_tasks_without_one_score_are_dropped_and_the_attributes_stay():
    samples = pd.DataFrame({"task": ["a", "a", "b"], "m": [1.0, None, None]})
    samples.attrs["better"] = {"m": "lower"}
    scored = drop_unscored_tasks(samples, "m")
    assert list(scored.index) == [0, 1]
    assert scored.attrs == {"better": {"m": "lower"}}


def test_a_subject_has_the_0_shot_arm_of_its_task_and_no_0_shot_arm_is_a_subject_beside_them():
    samples = frame(
        ("a", 0, "none", "greedy"),
        ("a", 2, "random", "greedy"),
        ("a", 2, "closest", "greedy"),
        ("b", 0, "none", "greedy"),
        ("b", 2, "random", "greedy"),
    )
    subjects = {name: list(rows.index) for name, rows in split_by_subject(samples, ["task", "order"])}
    assert subjects == {"a, random": [0, 1], "a, closest": [0, 2], "b, random": [3, 4]}


def test_a_0_shot_arm_alone_is_a_subject_and_so_is_a_setting_none_with_shots():
    alone = frame(("a", 0, "none", "greedy"), ("b", 0, "none", "greedy"))
    assert {name: list(rows.index) for name, rows in split_by_subject(alone, ["task", "order"])} == {"a": [0], "b": [1]}
    none = frame(("a", 0, "none", "greedy"), ("a", 2, "none", "greedy"), ("a", 2, "random", "greedy"))
    by_order = {name: list(rows.index) for name, rows in split_by_subject(none, ["order"])}
    assert by_order == {"order none": [0, 1], "random": [0, 2]}
    assert [name for name, _ in split_by_subject(none, [])] == ["a"]
    assert [name for name, _ in split_by_subject(none.drop(columns="shots"), ["order"])] == ["order none", "random"]


@pytest.mark.parametrize(
    ("over", "rows", "words"),
    [
        (["shots"], ([1, 2], [1, 2]), " over 2 and 4 shots"),
        (["shots", "order"], ([1], [1]), ""),  # one setting is shared: nothing is pooled
        (["retriever"], ([0, 1, 2], [0, 1, 2, 3]), ""),  # the frames have no such axis: nothing is restricted
        (["order"], ([0, 1], [1, 2]), ""),  # only numbers of shots are named
    ],
)
def test_two_arms_are_restricted_to_the_settings_that_both_have(over, rows, words):
    one = frame(("a", 0, "x", "vcd"), ("a", 2, "x", "vcd"), ("a", 4, "y", "vcd"))
    other = frame(("a", 8, "z", "icd"), ("a", 2, "x", "icd"), ("a", 4, "x", "icd"), ("a", 6, "z", "icd"))
    (left, right), text = shared_settings(one, other, over)
    assert (list(left.index), list(right.index), text) == (*rows, words)


def test_arms_without_a_shared_setting_leave_no_samples():
    (left, right), text = shared_settings(frame(("a", 2, "x", "vcd")), frame(("a", 4, "x", "icd")), ["shots"])
    assert (len(left), len(right), text) == (0, 0, "")
