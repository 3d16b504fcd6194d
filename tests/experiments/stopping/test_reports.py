"""What report, tables and `icl show RUN progress` say of runs that are looked at while they grow."""

import json

import numpy as np
import pytest

from experiments.cli.main import main
from experiments.launch.watch import RunWatcher
from experiments.report.page import write_report
from experiments.results.loaded_run import load_run
from experiments.results.run_list import list_runs
from experiments.results.view_run import view_run
from experiments.running import runner
from experiments.stopping.findings import complete_clusters
from icl.errors import StoreError


def test_the_report_has_the_verdicts_of_the_looks_and_no_other_p(go, looks, tmp_path):
    go("a")
    view = view_run(load_run(tmp_path / "a" / "t"))
    one, two = view.findings
    node = looks("a")[5]["comparisons"]["1"]["result"]
    assert two.claim == "2 shots against 0 shots: better"
    assert two.numbers.startswith(f"look 6 of 20 (18 of 60 queries), p ≤ {node['p']:.2g}".replace("0.", "."))
    assert "at any time (Holm over 2); +" in two.numbers
    assert two.more == "Differences of early stops are too large on average."
    assert one.claim == "1 shot against 0 shots: open"
    assert "look 13 of 20 (39 of 60 queries), chance of a verdict" in one.numbers
    text = write_report(view).report.read_text()
    assert "Other tests were not planned" in text
    assert "hold at any time, however often you look" in text
    assert "Scores use the queries that all compared arms have." in text
    assert "McNemar test (" not in text.partition('id="method"')[0]


def test_looks_are_a_frame_and_other_comparisons_are_refused(go, tmp_path):
    go("a")
    run = load_run(tmp_path / "a" / "t")
    frame = run.looks()
    assert frame[["arm", "reference", "verdict", "end", "look", "clusters"]].to_numpy().tolist() == [
        ["1 shot", "0 shots", "open", "open", 13, 39],
        ["2 shots", "0 shots", "better", "decided", 6, 18],
    ]
    files = write_report(run)
    assert (tmp_path / "a" / "t" / "tables" / "looks.csv") in files.tables
    with pytest.raises(StoreError, match="`looks` has their verdicts"):
        run.compare()


def test_means_of_a_table_stand_on_the_queries_that_all_arms_have(go, tmp_path):
    go("a")
    run = load_run(tmp_path / "a" / "t")
    view, every = view_run(run), run.samples()
    assert view.frame.groupby("shots")["query"].nunique().to_dict() == {0: 18, 1: 18, 2: 18}
    assert view.scores["query"].nunique() == 18
    assert every.groupby("shots")["query"].nunique().to_dict() == {0: 39, 1: 39, 2: 18}


def test_run_level_metrics_are_computed_again_on_these_queries(go, tmp_path, config_file):
    config_file.write_text(config_file.read_text().replace("strict", "macro_f1"))
    go("a", "stop={looks: 4}")
    view = view_run(load_run(tmp_path / "a" / "t"))
    for _, rows in view.scores.groupby("shots"):
        scores = rows.attrs["run_level"].scores["macro_f1"]
        own = [scores.samples[i] for i in rows["sample:number"]]
        assert rows["macro_f1"].mean() == pytest.approx(scores.metric.run_level(own).statistic)
    assert "no interval" in view.findings[0].numbers


def test_equal_within_a_margin_and_as_one_look(go, tmp_path, monkeypatch, config_file):
    text = (tmp_path / "answers.py").read_text()
    (tmp_path / "answers.py").write_text(
        text.replace("chance(key.query, key.seed, shots)", "chance(key.query, shots // 2)")
    )
    go("equal", "task={name: task.py:Singles, count: 300}", "grid.shots=[0,2]", "stop={margin: 0.9, looks: 5}")
    assert view_run(load_run(tmp_path / "equal" / "t")).findings[0].claim.endswith(("better", "equal within .900"))
    go("whole", "grid.shots=[0,1]", "stop={futility: null, looks: 3}")
    finding = view_run(load_run(tmp_path / "whole" / "t")).findings[0]
    assert finding.claim == "1 shot against 0 shots: open"
    assert "no verdict" in finding.numbers
    assert finding.more.startswith("As one look: p = 1")


def test_an_unfinished_run_without_stop_has_intervals_and_no_p(interrupted, tmp_path, capsys):
    interrupted("a", 150, "stop=null")
    view = view_run(load_run(tmp_path / "a" / "t"))
    warning, *so_far = view.findings
    assert "13.6 %" in warning.claim
    assert [one.claim for one in so_far] == ["1 shot against 0 shots, so far", "2 shots against 0 shots, so far"]
    assert "at any time [" in so_far[0].numbers
    assert "n = 60 of 60 clusters" in so_far[0].numbers
    assert "n = 30 of 60 clusters" in so_far[1].numbers
    text = write_report(view).report.read_text().partition('id="method"')[0]
    assert "p = " not in text
    assert "p &lt;" not in text
    assert main(["show", str(tmp_path / "a" / "t"), "progress"]) == 0
    printed = capsys.readouterr().out
    assert "looking at them while a run grows" in printed
    assert "at any time [" in printed
    assert main(["compare", str(tmp_path / "a" / "t")]) == 2
    assert "there are no p-values" in capsys.readouterr().err


def test_a_finished_run_without_stop_has_its_usual_p(go, tmp_path):
    go("a", "stop=null")
    view = view_run(load_run(tmp_path / "a" / "t"))
    assert not view.is_sequential
    assert any("p < .001" in one.numbers for one in view.findings)


def test_an_arm_that_was_given_up_does_not_hide_the_p_of_the_others(go, tmp_path, monkeypatch):
    monkeypatch.setenv("BROKEN", "1")
    monkeypatch.setattr(runner, "MAX_INITIAL_FAILURES", 5)
    go("a", "stop=null")
    assert not view_run(load_run(tmp_path / "a" / "t")).is_growing


def test_complete_clusters_are_those_that_both_arms_have(go, tmp_path):
    go("a", "stop=null", "task={name: task.py:Singles, count: 40, size: 2}", "seeds=[0,1]")
    scores = view_run(load_run(tmp_path / "a" / "t")).scores
    zero, two = (scores[scores["shots"] == shots] for shots in (0, 2))
    sums, sizes = complete_clusters(scores, zero, two, "strict")
    assert (len(sums), set(sizes)) == (20, {4.0})
    assert sums.sum() == two["strict"].sum() - zero["strict"].sum()
    part, sizes = complete_clusters(scores, zero, two[:-1], "strict")
    assert (len(part), set(sizes)) == (19, {4.0})


def test_watch_counts_looks_and_is_complete_when_all_comparisons_have_ended(go, interrupted, tmp_path):
    interrupted("a", 40)
    watcher = RunWatcher(tmp_path / "a" / "t")
    assert "look 4 of 20: 0 of 2 comparisons have ended" in watcher.poll().describe()
    assert watcher.comparisons()[0].startswith("singles: 1 shot against 0 shots: open so far: look 4 of 20")
    go("a")
    status = RunWatcher(tmp_path / "a" / "t").poll()
    assert status.complete
    assert "2 of 2 comparisons have ended (1 decided, 1 open)" in status.describe()
    assert json.loads((tmp_path / "a" / "t" / "run.json").read_text())["sizes"] == [39, 39, 18]


def test_a_run_before_its_first_look_is_a_sentence(interrupted, tmp_path):
    interrupted("a", 4)
    with pytest.raises(StoreError, match="has taken no look yet"):
        view_run(load_run(tmp_path / "a" / "t"))
    assert RunWatcher(tmp_path / "a" / "t").comparisons() == []


def test_a_pilot_changes_the_forecast_only(go, tmp_path, config_file, capsys):
    go("pilot", "stop=null")
    scores = load_run(tmp_path / "pilot" / "t").samples().pivot(index="query", columns="shots", values="strict")
    differs = np.mean([(scores[shots] != scores[0]).mean() for shots in (1, 2)])
    words = ["plan", str(config_file), "--runs", str(tmp_path / "none")]
    assert main(words) == 0
    assumed = capsys.readouterr().out
    assert "if one in five differs (assumed)" in assumed
    assert main([*words, "--pilot", str(tmp_path / "pilot" / "t")]) == 0
    printed = capsys.readouterr().out
    assert f"if {100 * differs:.0f} % differ (as in {tmp_path / 'pilot' / 't'})" in printed
    lines = zip(assumed.splitlines(), printed.splitlines(), strict=True)
    assert [one for one, other in lines if one != other and "expected share" not in one] == []


def test_another_metric_than_the_planned_one_decides_nothing(go, tmp_path):
    go("a", "metrics=[strict,lenient]")
    (finding,) = view_run(load_run(tmp_path / "a" / "t"), "lenient").findings
    assert "planned for strict" in finding.claim


def test_a_family_of_one_comparison_is_not_corrected_in_words(go, tmp_path):
    go("one", "grid.shots=[0, 2]")
    (only,) = view_run(load_run(tmp_path / "one" / "t")).findings
    assert "at any time; +" in only.numbers
    assert "Holm" not in only.numbers


def test_a_look_that_is_damaged_makes_its_run_unreadable_and_no_other(go, tmp_path, capsys):
    for name in ("a", "b"):
        go("runs", f"name={name}")
    path = tmp_path / "runs" / "a" / "looks" / "family-1" / "look-001.json"
    content = json.loads(path.read_text())
    content["comparisons"]["0"]["result"] = "text"
    path.write_text(json.dumps(content))
    assert {run.path.name: run.state for run in list_runs(tmp_path / "runs")} == {"a": "unreadable", "b": "finished"}
    assert main(["ls", "runs", str(tmp_path / "runs")]) == 0
    assert "look-001.json is damaged" in capsys.readouterr().err
