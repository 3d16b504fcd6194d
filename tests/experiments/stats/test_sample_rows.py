"""Reading rows of samples: known answers, ranks, votes, and the option with the highest score."""

import math

import pandas as pd
import pytest

from experiments.stats.sample_rows import (
    as_sequence,
    demos_of,
    predicted_option,
    ranks_of,
    read_answer,
    scores_by_names_used,
    text_items,
    text_value,
    to_records,
    unit_labels,
    vote_answer,
)

DEMOS = [["a", 0.5, "Red"], ["b", 0.25, "blue"], ["c", 0.1, "blue"]]


def test_rows_are_mappings_of_their_columns():
    frame = pd.DataFrame({"output": ["red", None], "unit": [3, 4]})
    first, second = to_records(frame)
    assert dict(first) == {"output": "red", "unit": 3}
    assert (len(second), list(second)) == (2, ["output", "unit"])
    assert unit_labels([first, second]) == [3, 4]
    assert first.get("missing", "none") == "none"
    with pytest.raises(KeyError, match="missing"):
        first["missing"]


def test_missing_fields_are_empty():
    row = {"output": math.nan, "options": math.nan, "gold": ["a", 1]}
    assert text_value(row, "output") == text_value(row, "absent") == ""
    assert text_items(row, "options") == text_items(row, "absent") == as_sequence("text") == ()
    assert text_items(row, "gold") == ("a", "1")


def test_ranks_are_stored_or_the_last_demonstration_is_the_best():
    assert ranks_of({"demos": DEMOS, "ranks": [1, 0, 2]}) == [1, 0, 2]
    assert ranks_of({"demos": DEMOS}) == [2, 1, 0]
    assert ranks_of({"demos": DEMOS, "ranks": [0]}) == [2, 1, 0]
    assert demos_of({"demos": DEMOS})[0] == ("a", 0.5, "Red")


def test_an_answer_is_the_one_known_answer_that_the_output_names():
    row = {"demos": DEMOS, "options": ["green", "blue"], "gold": ["yellow"], "gold_before_after": ["cat", "dog"]}
    for output, answer in (
        ("It is green.", "green"),
        ("It is red.", "red"),
        ("It is yellow.", "yellow"),
        ("It is a dog.", "dog"),
        ("Green or blue", "green or blue"),
        ("No Idea", "no idea"),
    ):
        assert read_answer({**row, "output": output}) == answer


def test_the_vote_is_that_of_the_demonstrations():
    assert vote_answer({"demos": DEMOS}) == "blue"
    assert vote_answer({"demos": DEMOS[:2], "ranks": [0, 1]}) == "red", "a tie goes to the best rank"
    assert vote_answer({"demos": []}) == ""


@pytest.mark.parametrize(
    ("scores", "output", "option"),
    [
        ({"Red": -1.0, "blue": -2.0}, "blue", "red"),
        ({"Red": -1.0, "blue": -1.0}, "red", None),  # a tie
        ({"purple": -1.0, "blue": -2.0}, "blue", None),  # not an option
        ({}, "It is blue.", "blue"),
        (math.nan, "purple", None),
    ],
)
def test_the_predicted_option_has_the_highest_score(scores, output, option):
    assert predicted_option({"options": ["Red", "blue"], "option_scores": scores, "output": output}) == option


def test_samples_with_renamed_labels_are_scored_by_the_names_that_demonstrations_use():
    swapped = [["a", 1.0, "dog"], ["b", 1.0, "dog"]]
    frame = pd.DataFrame(
        {
            "gold": [["Cat"], ["cat"], ["dog"], ["cat"]],
            "gold_before_after": [["cat", "dog"], ["cat", "dog"], ["cat", "dog"], ["cat"]],
            "demos": [swapped, [["a", 1.0, "cat"]], swapped, swapped],
            "output": ["a dog", "cat", "dog", "dog"],
        },
        index=[5, 6, 7, 8],
    )
    scores = scores_by_names_used(frame)
    assert scores.to_dict("index") == {5: {"model": 1.0, "vote": 1.0}, 6: {"model": 0.0, "vote": 0.0}}
