"""Hallucination at equal length and at equal recall, on models whose captions are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.analyses import caption_frontier
from experiments.analyses.caption_frontier import caption_counts, frontier
from icl.errors import ConfigError
from icl.types import Example

TASK = {"name": "captions", "queries": 40, "pool_size": 8}


def analyzed(ran: Any, scripted: Any, model: str) -> list[dict[str, Any]]:
    view = ran(model=scripted(model), task=TASK, grid={"shots": [0, 2]}, metrics=["chair_corpus"], seeds=[0])
    rows: list[dict[str, Any]] = caption_frontier.analyze(view).to_dict("records")
    assert [row["shots"] for row in rows] == [0, 2]
    assert np.isnan(rows[0]["beyond"])
    return rows


def test_a_caption_that_is_only_shorter_is_no_better_than_a_cut_of_the_reference(ran: Any, scripted: Any) -> None:
    reference, cut = analyzed(ran, scripted, "caption_cut_by_demonstrations")
    assert cut["length"] < reference["length"]
    assert cut["recall"] < reference["recall"]
    assert (cut["at_length"], cut["low"], cut["high"]) == (0, 0, 0)
    assert cut["beyond"] == pytest.approx(0, abs=1e-6)


def test_a_caption_without_the_wrong_object_is_beyond_every_cut(ran: Any, scripted: Any) -> None:
    reference, right = analyzed(ran, scripted, "caption_behind_a_wrong_object")
    assert (right["length"], right["recall"], right["chair"]) == (reference["length"], reference["recall"], 0)
    assert right["at_length"] == pytest.approx(-reference["chair"])
    assert right["low"] <= right["at_length"] <= right["high"] < 0
    assert right["frontier"] == pytest.approx(reference["chair"])
    assert right["beyond_low"] <= right["beyond"] <= right["beyond_high"] < 0


def test_an_arm_that_lacks_samples_is_compared_on_those_of_both(ran: Any, scripted: Any) -> None:
    model = scripted("caption_behind_a_wrong_object")
    view = ran(model=model, task=TASK, grid={"shots": [0, 2]}, metrics=["chair_corpus"], seeds=[0])
    without = view.frame[~((view.frame["shots"] == 0) & (view.frame["query"] == view.frame["query"].iloc[0]))]
    reference, right = caption_frontier.analyze(replace(view, frame=without)).to_dict("records")
    assert (reference["n"], right["n"]) == (39, 39)
    assert right["at_length"] == pytest.approx(-reference["chair"])


def test_the_frontier_is_the_lower_one_of_cut_captions_and_of_fewer_mentions() -> None:
    cuts = np.array([[0, 0, 0], [0, 2, 2], [2, 4, 2], [2, 6, 4]], dtype=np.float64)  # wrong, mentions, hits
    assert [frontier(recall, cuts, 4) for recall in (0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0, 2 / 6, 2 / 6])
    early = np.array([[0, 0, 0], [0, 1, 1], [1, 3, 2]], dtype=np.float64)
    assert frontier(0.75, early, 2) == pytest.approx(0.5 / 2)  # half of the captions have the longer cut
    assert np.isnan([frontier(0, cuts, 4), frontier(0.75, early, 4)]).all()


def test_counts_of_a_caption_are_those_of_its_first_words() -> None:
    example = Example("e", (), "?", ("a",), secret={"objects": ["dog", "cat"], "vocabulary": "coco"})
    whole = caption_counts("a dog, a dog and a bus by a cat", example)
    assert (whole.wrong, whole.mentions, whole.hits, whole.objects) == (1, 4, 2, 2)
    first = caption_counts("a dog, a dog and a bus by a cat", example, 4)
    assert (first.wrong, first.mentions, first.hits, first.objects) == (0, 2, 1, 2)


def test_a_task_without_objects_is_refused(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no task has the objects of its images, which CHAIR needs"):
        caption_frontier.analyze(ran())
