"""Copying, vote and label following, on models that do nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.analyses import copying, label_following, vote
from experiments.stats.compare import compare
from experiments.stats.sample_rows import match_known_answer, vote_answer
from icl.errors import ConfigError

PARTS = Path(__file__).parent / "parts.py"


def _row(frame: pd.DataFrame, **where: Any) -> Any:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    (row,) = frame.to_dict("records")
    return row


def test_a_copying_model_always_copies_the_last_demonstration(ran: Any) -> None:
    table = copying.analyze(ran(model="fake-copy", grid={"shots": [0, 4]}))
    last = _row(table, place="1")
    assert (last["copied"], last["copied_all"], last["copied_wrong"]) == (1.0, 1.0, 1.0)
    assert last["low"] > 0.2
    assert list(table["place"]) == ["any", "1", "2", "3", "4"]
    assert _row(table, place="any")["copied"] == 1.0
    assert all(_row(table, place=place)["copied"] == 0.0 for place in "234" if _row(table, place=place)["n"])


def test_a_model_that_knows_copies_only_by_agreeing(ran: Any) -> None:
    table = copying.analyze(ran(model="fake-gold", shots=3))
    row = _row(table, place="any")
    assert row["n_wrong"] == 0
    assert 0 < row["copied"] < 1
    assert pd.isna(row["copied_wrong"])


def test_copies_among_wrong_answers_count_where_answers_repeat(monkeypatch: pytest.MonkeyPatch, ran: Any) -> None:
    monkeypatch.setattr(copying, "demos_of", lambda row: [("a", 1.0, "yes"), ("b", 1.0, "no"), ("c", 1.0, "yes")])
    table = copying.analyze(ran(model="fake-copy", shots=3))
    last = _row(table, place="1")
    assert (last["n"], last["n_wrong"] > 0, last["copied_wrong"]) == (0, True, last["copied_all"])


def test_wrong_answers_do_not_depend_on_the_good_direction(ran: Any) -> None:
    wrong = f"{PARTS}:Wrong"
    higher, lower = (
        copying.analyze(ran(metric, name=metric, model="fake-copy", shots=3, metrics=["lenient", wrong]))
        for metric in ("lenient", "Wrong")
    )
    pd.testing.assert_frame_equal(lower, higher)
    assert 0 < _row(higher, place="any")["n_wrong"] < _row(higher, place="any")["n"]


def test_chance_is_the_copy_rate_over_all_other_queries_contexts() -> None:
    rows = [{"query": "a"}, {"query": "a"}, {"query": "b"}]
    demo_answers = [["red"], ["blue"], ["red", "red"]]
    # a's two with b's context: red is there, blue is not; b's red with a's two contexts: in one of them
    assert copying.chance(rows, ["red", "blue", "red"], demo_answers) == (1 + 0 + 1) / 4
    assert pd.isna(copying.chance(rows[:2], ["red", "blue"], demo_answers[:2]))


def test_a_voter_agrees_with_the_vote_and_adds_nothing(ran: Any) -> None:
    row = _row(vote.analyze(ran(model="fake-vote", shots=5)))
    assert (row["agreement"], row["differ"], row["beyond"], row["p"]) == (1.0, 0, 0.0, 1.0)
    assert row["accuracy"] == row["vote"]
    assert row["n"] == 12


def test_ties_of_the_vote_go_to_the_best_ranked_in_any_order(ran: Any) -> None:
    view = ran(model="fake-gold", shots=4, grid={"order": ["as_retrieved", "reversed", "random"]})
    by_order = {
        order: [vote_answer(row) for row in rows.sort_values(["query", "seed"]).to_dict("records")]
        for order, rows in view.frame.groupby("order")
    }
    assert by_order["as_retrieved"] == by_order["reversed"] == by_order["random"]


def test_a_model_that_knows_is_beyond_the_vote_where_they_differ(ran: Any) -> None:
    row = _row(vote.analyze(ran(model="fake-gold", shots=3)))
    assert (row["accuracy"], row["right"], row["vote_right"]) == (1.0, 1.0, 0.0)
    assert row["beyond"] == pytest.approx(1 - row["vote"])
    assert row["agreement"] == pytest.approx(row["vote"])


def test_the_vote_is_judged_with_scored_options_and_otherwise_an_error(ran: Any, toy: str) -> None:
    view = ran(model=toy, shots=3, answer_mode="options", metrics=["option", "lenient"])
    for metric in ("option", "lenient"):
        row = _row(vote.analyze(replace(view, metric=metric)))
        assert row["n"] == 12
    assert view.frame["vote:option"].tolist() == view.frame["vote:lenient"].tolist()
    with pytest.raises(ConfigError, match="no sample has a vote judged by 'unparsed_rate'"):
        vote.analyze(ran(name="u", model=toy, shots=3, metrics=["unparsed_rate", "strict"], metric="unparsed_rate"))


def test_a_model_that_knows_does_not_follow_flipped_labels_but_symbols(ran: Any) -> None:
    view = ran(model="fake-gold", shots=3, grid={"transforms": [["flip_labels"], ["symbols"]]})
    table = label_following.analyze(view)
    flipped, symbols = (_row(table, transforms=name) for name in ("flip_labels", "symbols"))
    assert (flipped["follow"], flipped["prior"], flipped["other"]) == (0.0, 1.0, 0.0)
    assert (symbols["follow"], symbols["prior"], symbols["other"]) == (1.0, 0.0, 0.0)
    assert (symbols["n"], symbols["unmapped"]) == (12, 0)
    assert (flipped["more"], symbols["more"]) == (-1.0, 1.0)
    assert [flipped["p"], symbols["p"]] == pytest.approx([2 * 2 / 2**4] * 2)  # four queries, Holm over two rows
    assert "change" not in table  # what it is compared with has labels of its own


def test_the_vote_and_the_model_are_judged_by_the_names_that_demonstrations_use(ran: Any) -> None:
    """A model that answers with the task's own names is wrong by flipped names; a copy of the vote is as good as it."""
    grid = {"transforms": [["flip_labels"], ["symbols"]]}
    table = vote.analyze(ran(name="gold", model="fake-gold", shots=3, grid=grid))
    flipped, symbols = (_row(table, transforms=name) for name in ("flip_labels", "symbols"))
    assert (flipped["accuracy"], symbols["accuracy"]) == (0.0, 1.0)
    assert flipped["vote"] > 0
    view = ran(name="vote", model="fake-vote", shots=3, grid=grid)
    copied = _row(vote.analyze(view), transforms="flip_labels")
    assert copied["accuracy"] == copied["vote"] > 0
    claims = {one.subject: one.claim for one in view.findings if one.topic == "Vote"}
    phrase = "the vote of the same demonstrations, by the names that these use"
    assert [name for name, claim in claims.items() if phrase in claim] == ["flip_labels"]
    assert len(claims) == 2


def test_label_following_is_tested_in_pairs_against_the_reference(ran: Any, tmp_path: Any) -> None:
    view = ran(model="fake-vote", shots=3, transforms=["symbols"], grid={"retriever": ["random", "oracle"]},
               compare={"to": {"retriever": "random"}})  # fmt: skip
    table = label_following.analyze(view)
    random, oracle = (_row(table, retriever=name) for name in ("random", "oracle"))
    assert oracle["change"] == pytest.approx(oracle["follow"] - random["follow"]) != 0
    tested = compare(view.scores, view.to, "strict", axes=view.axes)  # of symbols, to follow is to be right
    assert [oracle[f"change{end}"] for end in ("", "_low", "_high", "_p")] == pytest.approx(
        tested[["difference", "low", "high", "p_corrected"]].iloc[0].tolist()
    )
    assert np.isnan(random["change"])


def test_symbols_are_what_metrics_score(ran: Any) -> None:
    view = ran(model="fake-vote", shots=9, transforms=["symbols"], metrics=["strict"])
    plain = ran(name="plain", model="fake-vote", shots=9, metrics=["strict"])
    assert view.frame["strict"].tolist() == plain.frame["strict"].tolist()
    assert not set(view.frame["output"]) & {"red", "green", "blue"}
    assert all("symbols: 3 answers, saw labels" in marks for marks in view.frame["marks"])


def test_a_copier_follows_flipped_labels_of_its_own_class_only(ran: Any) -> None:
    row = _row(label_following.analyze(ran(model="fake-copy", shots=1, transforms=["flip_labels"])))
    assert row["follow"] + row["prior"] + row["other"] == pytest.approx(1)


def test_an_unreadable_answer_counts_as_other(ran: Any, scripted: Any) -> None:
    row = _row(label_following.analyze(ran(model=scripted("dunno"), shots=2, transforms=["flip_labels"])))
    assert (row["follow"], row["prior"], row["other"]) == (0.0, 0.0, 1.0)


def test_label_following_needs_transformed_labels(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no labels were transformed"):
        label_following.analyze(ran(shots=2))


@pytest.mark.parametrize(
    ("output", "answer"),
    [("Red.", "red"), ("It is red", "red"), ("red or blue", "red or blue"), ("", ""), ("green", "green")],
)
def test_an_output_gives_the_one_known_answer_that_it_names(output: str, answer: str) -> None:
    assert match_known_answer(output, ("red", "blue")) == answer
