"""A run-level metric wherever a run is displayed: no sample has one, and no single answer is right or wrong."""

import io
import json
import re

import pandas as pd
import pytest
from rich.console import Console

from experiments.report.page import write_report
from experiments.report.sample_browser import collect_samples
from experiments.report.sample_detail import choose_informative_query, print_sample
from experiments.report.sections.controls import controls_section
from experiments.report.sections.differences import differences_section
from experiments.report.terminal import print_summary
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.stats.compare import compare
from icl.errors import ConfigError

PAIRS = "group_accuracy"


@pytest.fixture(scope="module")
def run(writer, tmp_path_factory):
    """Images with two questions each, judged by pairs too."""
    votes = {"lenient": 1.0, PAIRS: 1.0}
    folder = tmp_path_factory.mktemp("pairs") / "run"
    made = writer(folder, queries=12, shots=(4,), retrievers=("random",), traced=True, votes=votes)
    for path in made.path.glob("cells/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["scores"][PAIRS] = line["scores"]["lenient"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = json.loads((made.path / "run.json").read_text())
    info["metrics"][PAIRS] = {"name": PAIRS, "better": "higher", "run_level": True}
    (made.path / "run.json").write_text(json.dumps(info))
    return load_run(made.path)


@pytest.fixture(scope="module")
def pairs(run):
    return view_run(run, PAIRS)


@pytest.fixture(scope="module")
def lenient(run):
    return view_run(run)


def printed(make, *args, width=200):
    out = io.StringIO()
    make(*args, Console(file=out, width=width))
    return out.getvalue()


MOVES = {"R→W", "W→R", "worse", "better", "down", "up"}


def heads(section):
    return {head.text for table in section.tables for head in table.heads}


def test_the_table_of_controls_counts_no_answers_and_says_why(pairs, lenient):
    assert [row.transitions for row in pairs.effects if row.subject == "shapes"] == [None] * 3
    section = controls_section(pairs)
    assert not MOVES & heads(section)
    assert any("no R→W/W→R: group_accuracy is a run-level metric" in note for note in section.notes)
    assert {"R→W", "W→R"} <= heads(controls_section(lenient))
    assert {"still_right", "right_to_wrong", "wrong_to_right"} & set(section.frame) == set()


def test_strategies_still_have_verdicts(pairs):
    assert all(row.judgment for row in pairs.effects if row.role == "strategy")


def test_compare_counts_no_answers_and_says_why(pairs, lenient):
    table = compare(pairs.scores, {"decoding": "greedy"}, PAIRS, axes=pairs.axes)
    assert set(table["test"]) == {"randomization"}
    assert table["right_to_wrong"].isna().all()
    assert "same" not in table
    section = differences_section(pairs, table)
    assert not MOVES & heads(section)
    text = " ".join([*section.notes])
    assert "no R→W/W→R: group_accuracy is a run-level metric" in text
    assert "randomization (arms exchanged within units), 6 independent units" in text
    own = differences_section(lenient, compare(lenient.scores, {"decoding": "greedy"}, "lenient", axes=lenient.axes))
    assert "exact McNemar, 6 independent units" in own.notes[0]
    assert {"R→W", "W→R"} <= heads(own)


def test_the_page_counts_no_answers(run, pairs, lenient):
    text = write_report(pairs).report.read_text()
    assert "randomization (arms exchanged within units)" in text
    assert "R→W</th>" not in text
    assert "None" not in re.sub(r"None of \d+ comparisons|None of its", "", text.partition('id="samples"')[0])
    own = write_report(lenient).report.read_text()
    assert "R→W</th>" in own
    table = pd.read_csv(run.path / "tables" / "differences.csv")
    assert table["wrong_to_right"].notna().all()


def test_a_sample_is_shown_with_its_own_scores_alone(pairs, lenient):
    text = printed(lambda console: print_sample(pairs, "shapes-0003", {}, None, console))
    (scores,) = re.findall(r"scores  (.*)", text)
    assert PAIRS not in scores
    assert "vote" not in scores  # as pairs judge it
    assert re.search(r"lenient [01]", scores)
    assert "group_accuracy: a run-level metric, without a score per sample" in text
    assert "baselines  " not in text
    text = printed(lambda console: print_sample(lenient, "shapes-0003", {}, None, console))
    (scores,), baselines = re.findall(r"scores  (.*)", text), re.findall(r"baselines  (.*)", text)
    assert "vote" not in scores
    assert all(re.match(r"vote \S+", line) and "by lenient" in line for line in baselines)
    assert baselines


def test_a_query_to_begin_with_is_one_that_was_answered_wrongly(pairs, lenient):
    for view in (pairs, lenient):
        query = choose_informative_query(view, {"task": "binding, 2-way"}, None)
        rows = view.frame[(view.frame["query"] == query) & (view.frame["seed"] == 0)]
        assert rows[rows["decoding"] == "greedy"]["lenient"].item() == 0


def test_the_browser_marks_answers_by_a_score_of_theirs(pairs):
    shelf = collect_samples(pairs)
    content = shelf.json(pairs)
    assert (content["metric"], content["better"]) == ("lenient", "higher")
    first = shelf.samples[0]
    assert first["score"] == first["scores"]["lenient"]
    assert PAIRS not in first["scores"]
    assert "baselines" not in first


def test_few_units_have_a_note_below_the_table_and_many_have_none(lenient, written):
    line = r"some intervals are based on only 6 independent units \(queries or groups of them\)"
    assert re.search(line, printed(print_summary, lenient))
    assert re.search(line, " ".join(controls_section(lenient).notes))
    assert re.search(line, write_report(lenient).report.read_text())
    table = compare(lenient.scores, {"decoding": "greedy"}, "lenient", axes=lenient.axes)
    assert re.search(line, " ".join(differences_section(lenient, table).notes))
    many = view_run(written("many", queries=60, shots=(0,), tasks=("shapes",), seeds=(0,)))
    assert "independent units" not in printed(print_summary, many)


@pytest.mark.parametrize(
    "name", ["copying", "disruption", "identifiability", "modality_importance", "order_sensitivity"]
)
def test_an_analysis_of_single_samples_asks_for_a_score_of_theirs(run, name):
    with pytest.raises(ConfigError, match=r"'group_accuracy' is a run-level metric.*--metric: lenient, strict"):
        run.analyze(name, metric=PAIRS)


def test_the_analysis_of_the_vote_tells_no_shares_of_single_answers(run):
    table = run.analyze("vote", metric=PAIRS)
    assert table[["right", "vote_right"]].isna().all(axis=None)
    assert table[["accuracy", "p"]].notna().all(axis=None)
    assert set(table["vote"]) == {1.0}
