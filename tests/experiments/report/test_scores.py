"""The scores of a run: one row per arm in the frame; tables and figures show the same numbers."""

from dataclasses import replace

import pandas as pd
import pytest
from written_run import GREEDY

from experiments.api import run
from experiments.report.page import find_section, write_report
from experiments.report.sections.differences import difference_frame
from experiments.report.sections.scores import curves_section, scores_section
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.formatting import format_share
from icl.errors import ConfigError


def rows_of(section, part=0):
    """labels -> the cells of a table of scores, by the heading."""
    table = section.tables[part]
    count = table.labels
    heads = [head.text for head in table.heads[count:]]
    return {
        tuple(cell.text for cell in row[:count]): dict(zip(heads, row[count:], strict=True)) for row, _ in table.rows
    }


@pytest.fixture(scope="module")
def scored(writer, tmp_path_factory):
    """A run in which demonstrations help on one task and change nothing on the other."""
    return writer(tmp_path_factory.mktemp("table") / "run", queries=60, shots=(0, 4))


@pytest.fixture(scope="module")
def view(scored):
    return view_run(scored, to={"shots": 0})


@pytest.fixture(scope="module")
def stored(view):
    """The tables that the report of the view writes."""
    write_report(view, per_cell=1)
    return view.path / "tables"


def test_rows_are_arms_and_columns_are_shots(viewed):
    section = scores_section(viewed(queries=6)).select(controls=True)
    assert [table.title for table in section.tables] == ["shapes", "binding, 2-way"]
    assert [head.text for head in section.tables[0].heads] == ["retriever", "decoding", "0 shots", "2 shots", "4 shots"]
    assert list(rows_of(section)) == [
        (retriever, decoding)
        for retriever in ("random", "knn")
        for decoding in ("greedy", "vcd", "mask_only(vcd)", "vote")
    ]
    assert "n = 6 queries × 2 seeds" in section.notes[0]


def test_controls_are_in_no_table_and_figure_unless_asked_for(viewed):
    section = scores_section(viewed(queries=6))
    assert [name for _, name in rows_of(section)] == ["greedy", "vcd", "vote"] * 2
    assert not any("mask_only" in name for name in section.figure.lines)
    assert "1 control of strategies is not shown." in section.notes
    assert any("mask_only" in name for name in section.select(controls=True).figure.lines)


def test_every_row_shows_the_shared_arm_at_zero_shots(viewed):
    rows = rows_of(scores_section(viewed(queries=6)))
    assert rows["random", "vcd"]["0 shots"] == rows["knn", "vcd"]["0 shots"]
    assert rows["random", "vcd"]["4 shots"] != rows["knn", "vcd"]["4 shots"]
    alone = scores_section(viewed(queries=6, retrievers=("knn",)))
    assert list(rows_of(alone)) == [("greedy",), ("vcd",), ("vote",)]


def test_cells_are_the_means_of_the_samples(viewed):
    view = viewed(queries=6)
    frame, section = view.frame, scores_section(view)
    own = frame[(frame["task"] == "shapes") & (frame["shots"] == 4) & (frame["retriever"] == "knn")]
    arms = section.frame.set_index(["task", "shots", "retriever", "decoding"])
    assert arms.loc[("shapes", 4, "knn", "vcd"), "mean"] == pytest.approx(
        own[own["decoding"] == "vcd"]["lenient"].mean()
    )
    vote = arms.loc[("shapes", 4, "knn", "vote")]
    assert vote["mean"] == pytest.approx(own[own["decoding"] == "greedy"]["vote"].mean())
    assert vote["samples"] == 12
    assert rows_of(section)["knn", "vote"]["0 shots"].text == "–"


def test_scores_of_a_run_equal_the_table_of_the_report(scored, stored):
    reported = pd.read_csv(stored / "scores.csv", keep_default_na=False, na_values=[""])
    arms, own = reported[~reported["vote"]], scored.scores()
    keys = ["task", "shots", "retriever", "decoding"]
    pd.testing.assert_frame_equal(
        own.sort_values(keys, ignore_index=True),
        arms[list(own)].sort_values(keys, ignore_index=True),
        check_dtype=False,
    )
    assert not scored.scores("strict")["mean"].equals(own["mean"])


def test_axes_with_one_value_are_left_out_of_data_frames(scored):
    assert list(scored.scores())[:4] == ["task", "shots", "retriever", "decoding"]
    assert list(scored.scores())[4] == "mean"
    assert "composer" in scored.scores(all_axes=True)
    assert "composer" not in scored.compare()
    assert "composer" in scored.compare(all_axes=True)


def test_a_cell_is_bold_exactly_if_the_corrected_p_of_a_gain_is_significant(view, stored):
    section = scores_section(view).select(controls=True)
    compared = pd.read_csv(stored / "differences.csv", keep_default_na=False).to_dict("records")
    better = {
        (row["task"], row["retriever"], row["decoding"], f"{row['shots']} shots")
        for row in compared
        if float(row["p_corrected"]) <= 0.05 and row["difference"] > 0
    }
    assert 0 < len(better) < len(compared)
    bold = {
        (table.title, *labels, head)
        for part, table in enumerate(section.tables)
        for labels, cells in rows_of(section, part).items()
        for head, cell in cells.items()
        if cell.bold
    }
    assert bold == better
    family = pd.DataFrame(compared)["family"].max()
    assert f"Bold: better than 0 shots, p ≤ .05 (Holm over {family} comparisons)." in section.notes


def test_a_significant_loss_is_not_bold(writer, tmp_path):
    made = writer(tmp_path / "run", queries=40, shots=(0, 4), better="lower", tasks=("binding, 2-way",))
    view = view_run(made, to={"shots": 0})
    assert "worse" in set(find_section(view, "differences").frame["verdict"])
    assert not any(cell.bold for table in scores_section(view).tables for row, _ in table.rows for cell in row)


def test_a_run_whose_comparisons_are_those_of_looks_has_no_bold(view):
    info = {**view.info, "sessions": [{"state": "running"}], "sizes": [99] * len(view.info["cells"])}
    growing = replace(view, info=info)
    assert growing.is_sequential
    of_looks = scores_section(growing)
    assert not of_looks.frame["better"].eq(True).any()
    assert growing.sequential_note in of_looks.notes


def test_flat_frames_hold_every_arm_and_every_comparison(viewed):
    view = viewed(queries=6)
    frame = scores_section(view).frame
    assert int((~frame["vote"].eq(True)).sum()) == 2 * (3 + 2 * 2 * 3)
    assert len(difference_frame(view)) == 2 * (2 + 2 * 2 * 2)
    curves = curves_section(view).frame
    assert len(curves) == 2 * 2 * 3
    assert {"gain", "efficiency", "headroom", "peak", "peak_shots"} <= set(curves)


def test_one_decoding_is_compared_over_retrievers_or_shots(viewed):
    run = load_run(viewed(queries=4, decodings=(GREEDY,)).path)
    assert view_run(run, to={"retriever": "random"}).to == {"retriever": "random"}
    assert set(difference_frame(view_run(run, to={"shots": 0}))["reference"]) == {"0"}


def test_the_vote_is_judged_by_the_score_that_the_table_shows(written):
    run = written(queries=6, votes={"lenient": 1.0, "strict": 0.25})
    for metric, voted in (("lenient", 1.0), ("strict", 0.25)):
        view = view_run(run, metric=metric)
        frame = scores_section(view).frame
        assert set(frame["mean"][frame["vote"].eq(True)]) == {voted}
        assert not frame["better"][frame["vote"].eq(True)].any()
        assert set(view.frame["vote"].dropna()) == set(view.scores["vote"].dropna()) == {voted}
        compared = compare(view.scores, {"baseline": "vote"}, metric, axes=view.axes)
        assert set(compared["reference_mean"]) == {voted}
        assert all(
            one.claim.endswith(f"against {format_share(voted)})") for one in view.findings if one.topic == "Vote"
        )


def test_no_vote_stands_beside_a_score_that_does_not_judge_it(written):
    run = written(queries=6, votes={"lenient": 1.0})
    view = view_run(run, metric="strict")
    assert not scores_section(view).frame["vote"].any()
    assert not [one for one in view.findings if one.topic == "Vote"]
    with pytest.raises(ConfigError, match=r"no such baseline judged by 'strict'\. It has none"):
        compare(view.scores, {"baseline": "vote"}, "strict", axes=view.axes)
    with pytest.raises(ConfigError, match=r"Did you mean 'vote'\? There are vote\."):
        compare(view.scores, {"baseline": "votes"}, "lenient", axes=view.axes)


def test_the_one_vote_of_an_older_run_is_no_reference_where_lower_is_better(viewed):
    assert viewed(queries=6).baselines == ("vote",)
    assert viewed(queries=3, better="lower").baselines == ()


@pytest.mark.parametrize(("transform", "rows"), [("flip_labels", 2), ({"name": "images", "how": "blank"}, 1)])
def test_the_vote_of_transformed_demonstrations_is_their_own(mapping, tmp_path, transform, rows):
    grid = {"transforms": [[], [transform]]}
    keys = {k: v for k, v in mapping(shots=4, seeds=[0, 1, 3]).items() if k != "transforms"}
    section = scores_section(view_run(run({**keys, "grid": grid}, runs=tmp_path, quiet=True)))
    voted = section.frame[section.frame["vote"].eq(True)]
    assert (len(voted), voted["mean"].nunique()) == (rows, rows)
    assert (voted["transforms"].iloc[0] == "") == (rows == 1)


def test_a_table_of_one_arm_has_one_cell(written):
    run = written(queries=4, tasks=("shapes",), shots=(2,), retrievers=("knn",), decodings=(GREEDY,))
    section = scores_section(view_run(run))
    assert [head.text for head in section.tables[0].heads] == ["decoding", "2 shots"]
    assert list(rows_of(section)) == [("greedy",), ("vote",)]
    assert "Bold" not in " ".join(section.notes)


def with_missing(view, arm, lost):
    """The view as if an arm had failed on some of its queries. Its run-level numbers are kept."""
    scores = view.scores.copy()
    own = (scores["task"] == "shapes") & (scores["shots"] == arm["shots"]) & (scores["decoding"] == arm["decoding"])
    failed = own & (scores["retriever"] == arm["retriever"]) & scores["query"].isin(lost)
    scores.loc[failed, list(view.metrics)] = float("nan")
    scores.loc[failed, "failed"] = True
    return replace(view, scores=scores)


def test_means_of_all_arms_stand_on_the_queries_that_every_arm_answered(viewed):
    whole = viewed(queries=20, shots=(0, 4), retrievers=("knn",), decodings=(GREEDY,))
    arm = {"shots": 4, "decoding": "greedy", "retriever": "knn"}
    zero = whole.scores[(whole.scores["task"] == "shapes") & (whole.scores["shots"] == 0)]
    hard = sorted(zero.groupby("query")["lenient"].mean().nsmallest(6).index)
    view = with_missing(whole, arm, hard)
    section = scores_section(view)
    frame = section.frame.set_index(["task", "decoding", "shots"])
    (gain, *_) = view.comparisons["ICL gain"]
    none, four = (frame.loc["shapes", "greedy", k] for k in (0, 4))
    assert (none["mean"], four["mean"]) == pytest.approx((gain.reference_mean, gain.mean))
    assert four["mean"] - none["mean"] == pytest.approx(gain.result.difference)
    assert frame.loc["shapes", "vote", 4]["samples"] == four["samples"] == 28
    assert [none["missing"], four["missing"], four["queries"]] == [12, 12, 14]
    assert "n = 14 to 20 queries" in section.notes[0]
    assert "6 queries on which an arm failed are left out" in view.scores_note
    assert (whole.scores_note, whole.paired_scores is whole.scores) == ("", True)


def test_an_arm_that_answered_nothing_takes_no_query_from_the_others(viewed):
    whole = viewed(queries=20, shots=(0, 4), retrievers=("knn",), decodings=(GREEDY,))
    every = set(whole.scores["query"])
    view = with_missing(whole, {"shots": 4, "decoding": "greedy", "retriever": "knn"}, every)
    frame = scores_section(view).frame.set_index(["task", "decoding", "shots"])
    assert list(frame.loc["shapes", "greedy"]["samples"]) == [40, 0]
