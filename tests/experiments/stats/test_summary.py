import pandas as pd
import pytest

from experiments.stats.intervals import wilson
from experiments.stats.summary import summarize_arms


def test_an_arm_is_a_row_with_its_interval_over_queries(arm):
    frame = pd.concat([arm([1, 1, 0, 1], shots=0, decoding="greedy"), arm([1, 0, 0, 0], shots=4, decoding="greedy")])
    table = summarize_arms(frame, "lenient", ["shots", "decoding"])
    assert list(table["shots"]) == [0, 4]
    assert list(table["mean"]) == [0.75, 0.25]
    assert (table["low"][0], table["high"][0]) == pytest.approx(wilson(3, 4))


def test_seeds_are_counted_and_are_not_units(arm):
    row = summarize_arms(arm([[1, 1, 0, 1], [1, 0, 0, 1]], seeds=2), "lenient", []).iloc[0]
    assert (row["samples"], row["clusters"], row["queries"], row["seeds"]) == (8, 4, 4, 2)
    assert row["seed_sd"] == pytest.approx(0.25 / 2**0.5)


def test_samples_without_a_score_are_counted_as_missing(arm):
    row = summarize_arms(arm([1, None, 0]), "lenient", []).iloc[0]
    assert (row["mean"], row["samples"], row["missing"]) == (0.5, 2, 1)


def test_an_arm_without_any_score_is_nan(arm):
    assert (
        summarize_arms(arm([None, None]), "lenient", []).iloc[0]["mean"]
        != summarize_arms(arm([1]), "lenient", []).iloc[0]["mean"]
    )
