import pandas as pd
import pytest

from experiments.stats.intervals import wilson
from experiments.stats.summary import summarize_arms


def test_an_arm_is_a_row_with_its_interval_over_queries(arm):
    frame = pd.concat([arm([1, 1, 0, 1], shots=0, decoding="greedy"), arm([1, 0, 0, 0], shots=4, decoding="greedy")])
    found = summarize_arms(frame, "lenient", ["shots", "decoding"])
    assert list(found["shots"]) == [0, 4]
    assert list(found["mean"]) == [0.75, 0.25]
    assert (found["low"][0], found["high"][0]) == pytest.approx(wilson(3, 4))


def test_seeds_are_told_apart_and_are_not_units(arm):
    found = summarize_arms(arm([[1, 1, 0, 1], [1, 0, 0, 1]], seeds=2), "lenient", []).iloc[0]
    assert (found["samples"], found["clusters"], found["queries"], found["seeds"]) == (8, 4, 4, 2)
    assert found["seed_sd"] == pytest.approx(0.25 / 2**0.5)


def test_what_has_no_score_is_counted_as_missing(arm):
    found = summarize_arms(arm([1, None, 0]), "lenient", []).iloc[0]
    assert (found["mean"], found["samples"], found["missing"]) == (0.5, 2, 1)


def test_an_arm_without_any_score_is_nan(arm):
    assert (
        summarize_arms(arm([None, None]), "lenient", []).iloc[0]["mean"]
        != summarize_arms(arm([1]), "lenient", []).iloc[0]["mean"]
    )
