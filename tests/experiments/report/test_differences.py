"""The differences of arms from their reference: which rows, which numbers, and how they were tested."""

from dataclasses import replace

import pandas as pd
import pytest
from markupsafe import escape
from written_run import printed

from experiments.api import run
from experiments.report.page import write_report
from experiments.report.sections.differences import TESTS, describe_tests, differences_section
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from experiments.stats.formatting import format_interval


@pytest.fixture(scope="module")
def many(mapping, tmp_path_factory):
    """The view of three models at six settings."""
    keys = {k: v for k, v in mapping(seeds=[0, 1]).items() if k not in ("shots", "model")}
    models = ["fake-copy", {"name": "fake-gold", "accuracy": 0.5}, {"name": "fake-gold", "accuracy": 0.25}]
    grid = {"shots": [1, 2, 3], "retriever": ["random", "balanced"], "model": models}
    keys |= {"grid": grid, "compare": {"to": {"model": "fake-copy"}}}
    return view_run(run(keys, runs=tmp_path_factory.mktemp("many"), quiet=True))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_rows_are_whole_at_any_width_and_no_number_is_lost(many, width):
    section = differences_section(many)
    assert len(section.frame) == 12
    lines = printed(section, width).splitlines()
    assert sum("[" in line and "]" in line for line in lines) == 12
    assert all(len(line) <= width for line in lines)
    text = "".join(printed(section, width).split())
    assert "fake-gold(accuracy=0.5)" in text or width < 80
    gone = printed(section, width).partition("columns that do not fit: ")[2]
    for name in ("score", "fake-copy", "R→W", "W→R"):
        assert any(name in line.split() or f" {name} " in f" {line} " for line in lines) or name in gone


def test_page_csv_and_terminal_print_one_interval_that_agrees_with_the_corrected_p(viewed):
    run = load_run(viewed(queries=60, tasks=("binding, 2-way",), shots=(0, 4)).path)
    view = view_run(run, to={"shots": 0})
    files = write_report(view)
    differences = pd.read_csv(next(path for path in files.tables if path.name == "differences.csv"))
    page, out = (run.path / "report.html").read_text(), printed(differences_section(view), 200)
    assert list((differences["low"] > 0) | (differences["high"] < 0)) == list(differences["p_corrected"] <= 0.05)
    for row in differences[~differences["aside"]].to_dict("records"):
        interval = format_interval(row["low"], row["high"])
        assert f">{interval}</td>" in page
        assert interval in out
    tested = [one for own in view.comparisons.values() for one in own if one.result is not None]
    for one in tested:
        assert (one.result.low > 0 or one.result.high < 0) == (one.p <= 0.05)
    for finding in view.findings:
        assert str(escape(finding.numbers)) in page


@pytest.mark.parametrize("correct", ["holm", "none"])
def test_a_correction_is_named_even_if_it_changes_no_p(viewed, correct):
    view = viewed(queries=6)
    table = compare(view.scores, view.to, view.metric, correct=correct, axes=view.axes)
    table[["p", "p_corrected"]] = 1.0
    text = " ".join(printed(differences_section(view, table), 200).split())
    assert (f"Holm over {len(table)} comparisons" in text) == (correct == "holm")


def test_the_reference_is_the_one_that_was_asked_for(viewed):
    view = viewed(queries=6)
    table = compare(view.scores, {"baseline": "vote"}, view.metric, axes=view.axes)
    section = differences_section(view, table)
    assert "against vote" in section.title
    assert "vote" in [head.text for head in section.tables[0].heads]


def test_arms_that_equal_their_reference_by_construction_are_not_shown_and_counted(written):
    view = view_run(written(queries=4, tasks=("shapes",), shots=(2,), retrievers=("knn",)))
    same = view.scores["decoding"] != "vcd"
    same_arms = replace(view, scores=view.scores.assign(decided_by=same.map({True: "same", False: "other"})))
    section = differences_section(same_arms).select(controls=False)
    assert list(section.visible["decoding"]) == ["vcd"]
    assert "1 arm: the same as the reference by construction, not tested." in section.notes
    whole = replace(view, scores=view.scores.assign(decided_by="same"))
    every = differences_section(whole)
    assert (every.tables, every.notes) == (
        [],
        ["2 arms: the same as the reference by construction, not tested."],
    )


def test_where_neither_way_is_good_nothing_is_lost_or_won(written):
    section = differences_section(view_run(written(queries=6, better="neither")))
    heads = [head.text for head in section.tables[0].heads]
    assert {"down", "up"} <= set(heads)
    assert not {"R→W", "W→R"} & set(heads)


def test_controls_come_only_when_asked_for_and_are_in_the_family(viewed):
    section = differences_section(viewed(queries=6))
    family = int(section.frame["family"].max())
    assert set(section.visible["decoding"]) == {"vcd"}
    assert family == len(section.frame) > len(section.visible)
    assert any(f"Holm over {family} comparisons" in note for note in section.notes)
    assert set(section.select(controls=True).visible["decoding"]) == {"vcd", "mask_only(vcd)"}


def test_each_test_and_each_mix_is_named_by_all_of_its_tests_and_no_other():
    names = {"mcnemar": "McNemar", "randomization": "andomization", "labels": "labels"}
    for mix in TESTS:
        text = describe_tests([*mix, *mix])
        assert {test for test, name in names.items() if name in text} == mix


@pytest.mark.parametrize("tests", [["mcnemar", "wilcoxon"], ["wilcoxon"], []])
def test_a_test_without_words_is_an_error(tests):
    with pytest.raises(ValueError, match="no words"):
        describe_tests(tests)
