from dataclasses import replace

import pytest
from written_run import GREEDY

from experiments.api import run
from experiments.report.tables import difference_frame, score_frame, task_tables
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.formatting import format_share
from icl.errors import ConfigError


def test_rows_are_arms_and_columns_are_shots(written):
    view = view_run(written(queries=6))
    first, second = task_tables(view)
    assert (first.task, second.task) == ("shapes", "binding, 2-way")
    assert (first.axes, first.shots) == (("retriever", "decoding"), (0, 2, 4))
    assert [row.labels for row in first.rows] == [
        *(("random", d) for d in ("greedy", "vcd", "mask_only(vcd)")),
        *(("knn", d) for d in ("greedy", "vcd", "mask_only(vcd)")),
        ("random", "vote"),
        ("knn", "vote"),
    ]
    assert (first.queries, first.seeds, first.failed) == (6, 2, 0)


def test_every_row_shows_the_shared_arm_at_zero_shots(written):
    table = task_tables(view_run(written(queries=6)))[0]
    by_label = {row.labels: row for row in table.rows}
    assert by_label["random", "vcd"].cells[0] == by_label["knn", "vcd"].cells[0]
    assert by_label["random", "vcd"].cells[4] != by_label["knn", "vcd"].cells[4]


def test_cells_are_the_means_of_the_samples(written):
    view = view_run(written(queries=10))
    frame = view.frame
    own = frame[(frame["task"] == "shapes") & (frame["shots"] == 4) & (frame["retriever"] == "knn")]
    row = next(r for r in task_tables(view)[0].rows if r.labels == ("knn", "vcd"))
    assert row.cells[4].mean == pytest.approx(own[own["decoding"] == "vcd"]["lenient"].mean())
    vote = next(r for r in task_tables(view)[0].rows if r.labels == ("knn", "vote"))
    assert vote.cells[4].mean == pytest.approx(own[own["decoding"] == "greedy"]["vote"].mean())
    assert (vote.cells[4].samples, 0 in vote.cells) == (20, False)


def test_the_vote_is_never_the_best_of_a_column(written):
    table = task_tables(view_run(written(queries=6)))[1]
    best = [row for row in table.rows if table.is_best(row, 4)]
    assert best
    assert not any(row.baseline for row in best)
    assert best[0].cells[4].mean == max(row.cells[4].mean for row in table.rows)


def test_another_axis_makes_rows_of_its_own(written):
    run = written(queries=4, tasks=("shapes",), retrievers=("knn",))
    table = task_tables(view_run(run))[0]
    assert [row.labels[-1] for row in table.rows] == ["greedy", "vcd", "mask_only(vcd)", "vote"]
    assert table.rows[0].cells.keys() == {0, 2, 4}


def test_flat_frames_hold_every_arm_and_every_comparison(written):
    view = view_run(written(queries=4))
    assert len(score_frame(view)) == 2 * (3 + 2 * 2 * 3)
    assert len(difference_frame(view)) == 2 * (2 + 2 * 2 * 2)


def test_one_decoding_is_compared_over_retrievers_or_shots(written):
    run = written(queries=4, decodings=({"strategy": {"name": "greedy"}},))
    assert view_run(run, to={"retriever": "random"}).to == {"retriever": "random"}
    assert set(difference_frame(view_run(run, to={"shots": 0}))["reference"]) == {"0"}


def test_the_best_of_a_column_is_the_lowest_where_lower_is_better(written):
    table = task_tables(view_run(written(queries=6, better="lower")))[1]
    best = {row.cells[4].mean for row in table.rows if table.is_best(row, 4)}
    assert best == {min(row.cells[4].mean for row in table.rows if not row.baseline)}


def test_no_cell_is_the_best_where_neither_way_is_good(written):
    table = task_tables(view_run(written(queries=6, better="neither")))[1]
    assert not any(table.is_best(row, shots) for row in table.rows for shots in table.shots)


def test_the_vote_is_judged_by_the_score_that_the_table_shows(written):
    run = written(queries=6, votes={"lenient": 1.0, "strict": 0.25})
    for metric, voted in (("lenient", 1.0), ("strict", 0.25)):
        view = view_run(run, metric=metric)
        (table, _) = task_tables(view)
        assert {cell.mean for row in table.rows if row.baseline for cell in row.cells.values()} == {voted}
        assert set(view.frame["vote"].dropna()) == set(view.scores["vote"].dropna()) == {voted}
        compared = compare(view.scores, {"baseline": "vote"}, metric, axes=view.axes)
        assert set(compared["reference_mean"]) == {voted}
        assert all(
            one.claim.endswith(f"against {format_share(voted)})") for one in view.findings if one.topic == "Vote"
        )


def test_no_vote_stands_beside_a_score_that_does_not_judge_it(written):
    run = written(queries=6, votes={"lenient": 1.0})
    view = view_run(run, metric="strict")
    assert not [row for table in task_tables(view) for row in table.rows if row.baseline]
    assert not [one for one in view.findings if one.topic == "Vote"]
    with pytest.raises(ConfigError, match=r"no such baseline judged by 'strict'\. It has none"):
        compare(view.scores, {"baseline": "vote"}, "strict", axes=view.axes)
    with pytest.raises(ConfigError, match=r"Did you mean 'vote'\? There are vote\."):
        compare(view.scores, {"baseline": "votes"}, "lenient", axes=view.axes)


def test_the_one_vote_of_an_older_run_is_no_reference_where_lower_is_better(written):
    assert view_run(written(name="a", queries=3)).baselines == ("vote",)
    assert view_run(written(name="b", queries=3, better="lower")).baselines == ()


def test_a_zero_shot_cell_that_rows_share_is_printed_once(written):
    table = task_tables(view_run(written(queries=6)))[0]
    lines = table.lines
    assert [row.labels for row in lines[:3]] == [("any", d) for d in ("greedy", "vcd", "mask_only(vcd)")]
    assert all(row.cells.keys() == {0} for row in lines[:3])
    assert all(row.cells.keys() == {2, 4} for row in lines[3:])
    assert [row.labels for row in lines[3:]] == [row.labels for row in table.rows]
    assert {row.cells[0].mean for row in lines[:3]} == {row.cells[0].mean for row in table.rows if 0 in row.cells}
    assert any(table.is_best(row, 0) for row in lines)


def test_a_zero_shot_cell_of_one_row_stays_in_it(written):
    table = task_tables(view_run(written(queries=6, retrievers=("knn",))))[0]
    assert table.lines == table.rows


@pytest.mark.parametrize(("transform", "rows"), [("flip_labels", 2), ({"name": "images", "how": "blank"}, 1)])
def test_the_vote_of_transformed_demonstrations_is_their_own(mapping, tmp_path, transform, rows):
    grid = {"transforms": [[], [transform]]}
    keys = {k: v for k, v in mapping(shots=4, seeds=[0, 1, 3]).items() if k != "transforms"}
    (table,) = task_tables(view_run(run({**keys, "grid": grid}, runs=tmp_path, quiet=True)))
    voted = [row for row in table.rows if row.baseline]
    assert len(voted) == rows
    assert len({row.cells[4].mean for row in voted}) == rows
    assert (voted[0].labels[table.axes.index("transforms")] == "") == (rows == 1)


def with_missing(view, arm, lost):
    """The view as if an arm had failed on some of its queries. Its run-level numbers are kept."""
    scores = view.scores.copy()
    own = (scores["task"] == "shapes") & (scores["shots"] == arm["shots"]) & (scores["decoding"] == arm["decoding"])
    failed = own & (scores["retriever"] == arm["retriever"]) & scores["query"].isin(lost)
    scores.loc[failed, list(view.metrics)] = float("nan")
    scores.loc[failed, "failed"] = True
    return replace(view, scores=scores)


def test_means_of_all_arms_stand_on_the_queries_that_every_arm_answered(written):
    whole = view_run(written(queries=20, shots=(0, 4), retrievers=("knn",), decodings=(GREEDY,)))
    arm = {"shots": 4, "decoding": "greedy", "retriever": "knn"}
    zero = whole.scores[(whole.scores["task"] == "shapes") & (whole.scores["shots"] == 0)]
    hard = sorted(zero.groupby("query")["lenient"].mean().nsmallest(6).index)
    view = with_missing(whole, arm, hard)
    table, other = task_tables(view)
    (row,) = [one for one in table.rows if not one.baseline]
    (gain, *_) = view.comparisons["ICL gain"]
    assert (row.cells[0].mean, row.cells[4].mean) == pytest.approx((gain.reference_mean, gain.mean))
    assert row.cells[4].mean - row.cells[0].mean == pytest.approx(gain.result.difference)
    assert (table.queries, other.queries, table.failed) == (14, 20, 12)
    (vote,) = [one for one in table.rows if one.baseline]
    assert vote.cells[4].samples == row.cells[4].samples == 28
    frame = score_frame(view).set_index(["task", "shots"])
    assert list(frame.loc["shapes", "missing"]) == [12, 12]
    assert frame.loc[("shapes", 0), "mean"] == pytest.approx(gain.reference_mean)
    assert "6 queries on which an arm failed are left out" in view.scores_note
    assert (whole.scores_note, whole.paired_scores is whole.scores) == ("", True)


def test_an_arm_that_answered_nothing_takes_no_query_from_the_others(written):
    whole = view_run(written(queries=6, shots=(0, 4), retrievers=("knn",), decodings=(GREEDY,)))
    every = set(whole.scores["query"])
    view = with_missing(whole, {"shots": 4, "decoding": "greedy", "retriever": "knn"}, every)
    (row,) = [one for one in task_tables(view)[0].rows if not one.baseline]
    assert {shots: cell.samples for shots, cell in row.cells.items()} == {0: 12}
