import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import written_run

from experiments.analyses.catalog import analyze_by, find_analysis
from experiments.cli.main import main
from experiments.report.page import find_section, write_report
from experiments.results.column_effects import ColumnEffects, column_effects, interactions_frame, macro_averages
from experiments.results.data_columns import (
    column_values,
    declared_columns,
    missing_note,
    parts_of,
    split_view,
)
from experiments.results.loaded_run import load_run
from experiments.results.run_metrics import run_level
from experiments.results.view_run import view_run
from experiments.stats.arms import MISSING_VALUE, tidy_frame
from experiments.stats.compare import compare
from experiments.stats.summary import summarize_arms
from experiments.store.store import Store
from icl.errors import ConfigError
from icl.tasks.presets import PRESETS, preset_columns

CATEGORIES = ("random", "popular", "adversarial")
CUES = ([1], "[1, 5]", [5, 2, 5])  # of the categories; a table has lists as text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which vcd harms the adversarial questions and no other ones. The first query has no category."""
    original = written_run._sample

    def sample(cell, digest, i, images, how):
        made = original(cell, digest, i, images, how)
        category, scores = CATEGORIES[i % 3], dict(made.scores)
        if category == "adversarial" and cell["decoding"]["strategy"]["name"] == "vcd":
            scores = dict.fromkeys(scores, 0.0)
        meta = {"category": category, "id": i, "bbox": [[1, 2]], "seed": 1, "level": i % 2, "cues": CUES[i % 3]}
        return replace(made, scores=scores, meta=meta if i else {"id": 0, "bbox": None, "seed": 1, "level": 0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_run, "_sample", sample)
        return written_run.write_run(
            tmp_path_factory.mktemp("by") / "run", queries=60, shots=(4,), retrievers=("knn",), tasks=("shapes",)
        )


@pytest.fixture(scope="module")
def view(run):
    return view_run(run)


def test_scores_by_a_column_are_those_of_the_samples_with_each_value(run, view):
    by = run.scores(by="category", all_axes=True)
    assert set(by["category"]) == {*CATEGORIES, MISSING_VALUE}
    labels = column_values(view.frame, "category", view.axes)
    for category in CATEGORIES:
        own = summarize_arms(view.scores[labels == category], "lenient", view.axes)
        part = by[by["category"] == category].drop(columns="category").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, own)
    assert len(run.scores(by=["category", "level"])) == 3 * (2 * 3 + 1)


def cell_of(scores, gold, **more):
    """A tidy frame of one cell with macro F1 in the column `m`."""
    columns = {"cell": "c", "seed": 0, "query": [f"q{i}" for i in range(len(scores))], "m": scores, "group": None}
    columns |= {"output": ["yes" if score else "no" for score in scores], "gold": [[answer] for answer in gold], **more}
    frame = pd.DataFrame(columns).assign(failed=None)
    return tidy_frame(run_level(frame, {"metrics": {"m": {"name": "macro_f1", "run_level": True}}}, ()), ())


def test_a_run_level_metric_is_computed_within_each_value(view):
    rng = np.random.default_rng(0)
    gold = [("yes", "no")[k] for k in rng.integers(0, 2, 60)]
    scores = [float(k) for k in rng.integers(0, 2, 60)]
    category = [CATEGORIES[i % 3] for i in range(60)]
    more = {"task": "t", "decoding": "greedy", "meta": [{"category": name} for name in category]}
    frame = cell_of(scores, gold, **more)
    whole = replace(view, frame=frame, scores=frame.assign(shots=0), axes=("task", "decoding"), metric="m", by=())
    split = split_view(whole, ["category"])
    for name in CATEGORIES:
        here = [i for i in range(60) if category[i] == name]
        alone = cell_of([scores[i] for i in here], [gold[i] for i in here])
        assert split.scores[split.scores["category"] == name]["m"].mean() == pytest.approx(alone["m"].mean())
    effects = column_effects(replace(whole, to={}), "category")
    ((_, average, _),) = macro_averages(effects)
    parts = summarize_arms(split.scores, "m", split.axes)
    assert average.mean == pytest.approx(parts["mean"].mean())


def test_an_effect_that_depends_on_the_column_is_a_sentence_and_a_table(run, view):
    effects = column_effects(view, "category")
    frame = interactions_frame(effects)
    vcd = frame[frame["decoding"] == "vcd"].set_index("category")
    assert (vcd["p_corrected"] < 0.01).all()
    assert vcd["contrast"].idxmin() == "adversarial"
    others = vcd.drop(index="adversarial")
    means = (others["difference"] * others["pairs"]).sum() / others["pairs"].sum()
    assert vcd.loc["adversarial", "contrast"] == pytest.approx(vcd.loc["adversarial", "difference"] - means)
    assert (frame[frame["decoding"] != "vcd"]["p_corrected"] > 0.05).all()
    by = view_run(run, by=["category"])
    sentences = [one.sentence for one in by.findings if one.topic == "By column"]
    assert sentences[0].startswith("the difference of vcd from greedy depends on category: −")
    assert " at adversarial, " in sentences[0]
    assert "p < .001" in sentences[0]
    assert not any(one.topic == "By column" for one in view.findings)
    page = write_report(by).report.read_text(encoding="utf-8")
    assert "Effects by category" in page
    assert "1 query has no value of category" in page
    stored = pd.read_csv(view.path / "tables" / "effects-category.csv")
    tested = frame[frame["p_corrected"].notna()]
    assert stored["p"].tolist() == pytest.approx(tested["p"].tolist())


def test_comparisons_in_two_parts_are_two_hypotheses(view):
    split = split_view(view, ["category"])
    assert split.scores["decided_by"].nunique() == view.scores["decided_by"].nunique() * 4


def test_the_table_has_a_column_per_value_then_all_and_macro(run, view):
    by = view_run(run, by=["category"])
    section = find_section(by, "by-category").select(controls=True)
    (table,) = section.tables
    values = [head.text.split(" (")[0] for head in table.heads[1:4]]
    assert values == ["popular", "adversarial", "random"]
    assert [head.text for head in table.heads[4:]] == [f"{MISSING_VALUE} (1)", "all", "macro"]
    scores = {row["decoding"]: row for row in run.scores().to_dict("records")}
    for (label, *cells), _ in table.rows:
        assert f"{scores[label.text]['mean']:.3f}".lstrip("0") == cells[4].main
    effects = find_section(by, "effects-category")
    different = {(row["decoding"], row["category"]) for row in effects.frame[effects.frame["sure"]].to_dict("records")}
    assert ("vcd", "adversarial") in different
    assert {decoding for decoding, _ in different} == {"vcd"}
    assert effects.folded == f"{len(different)} of {len(effects.frame)} contrasts differ from 0"


def cued(view, cue):
    """Whether the query of each sample has a cue, from the fixture's own lists."""
    return [i % 3 in {1: (0, 1), 5: (1, 2), 2: (2,)}[cue] and i > 0
            for i in view.frame["query"].str.extract(r"(\d+)$")[0].astype(int)]  # fmt: skip


def test_a_column_of_lists_has_a_part_for_each_value_and_the_parts_overlap(run, view):
    by = run.scores(by="cues", all_axes=True)
    assert set(by["cues"]) == {1, 2, 5, MISSING_VALUE}
    for cue in (1, 2, 5):
        own = summarize_arms(view.scores[cued(view, cue)], "lenient", view.axes)
        part = by[by["cues"] == cue].drop(columns="cues").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, own)
    by_cue = view_run(run, by=["cues"])
    section = find_section(by_cue, "by-cues")
    assert any("40 queries have several values of cues, with a part in the row of each" in n for n in section.notes)
    (table,) = section.tables
    assert [head.text for head in table.heads[1:]] == [
        "1 (39)",
        "2 (20)",
        "5 (40)",
        f"{MISSING_VALUE} (1)",
        "all",
        "macro",
    ]
    assert "several values" not in "".join(find_section(view_run(run, by=["category"]), "by-category").notes)


def test_an_effect_in_overlapping_parts_is_compared_with_the_queries_outside_the_part(view):
    frame = interactions_frame(column_effects(view, "cues"))
    scores = view.scores.pivot_table(index=["query", "seed"], columns="decoding", values="lenient")
    change = (scores["vcd"] - scores["greedy"]).rename("change")
    for cue in (1, 2, 5):
        inside = view.scores.assign(inside=cued(view, cue)).drop_duplicates(["query", "seed"])
        has_cue = inside.set_index(["query", "seed"])["inside"].reindex(change.index)
        counted = change[change.index.get_level_values("query") != "shapes-0000"]  # without a cue: in no test
        row = frame[(frame["decoding"] == "vcd") & (frame["cues"] == cue)].iloc[0]
        own = has_cue.reindex(counted.index)
        assert row["contrast"] == pytest.approx(counted[own].mean() - counted[~own].mean())
        assert row["pairs"] == own.sum()
    assert (frame[frame["decoding"] == "vcd"]["p_corrected"] < 0.01).all()


def test_a_column_of_lists_with_one_value_each_is_that_of_the_values(view):
    def listed(meta):
        return {**meta, "category": [meta["category"]]} if "category" in meta else meta

    lists = replace(view, frame=view.frame.assign(meta=view.frame["meta"].map(listed)))
    one, other = (interactions_frame(column_effects(own, "category")) for own in (view, lists))
    pd.testing.assert_frame_equal(
        one.drop(columns="test", errors="ignore"), other.drop(columns="test", errors="ignore")
    )


def test_a_run_level_metric_is_computed_in_overlapping_parts_and_its_effects_are_not_tested(view):
    rng = np.random.default_rng(0)
    gold = [("yes", "no")[k] for k in rng.integers(0, 2, 60)]
    scores = [float(k) for k in rng.integers(0, 2, 60)]
    cues = [([1], [1, 5], [5])[i % 3] for i in range(60)]
    frame = cell_of(scores, gold, task="t", decoding="greedy", meta=[{"cues": own} for own in cues])
    whole = replace(view, frame=frame, scores=frame.assign(shots=0), axes=("task", "decoding"), metric="m", by=())
    split = split_view(whole, ["cues"])
    for cue in (1, 5):
        here = [i for i in range(60) if cue in cues[i]]
        alone = cell_of([scores[i] for i in here], [gold[i] for i in here])
        assert split.scores[split.scores["cues"] == cue]["m"].mean() == pytest.approx(alone["m"].mean())
    two = pd.concat([whole.scores, whole.scores.assign(decoding="vcd")])
    two.attrs = whole.scores.attrs
    both = replace(whole, frame=two, scores=two, to={"decoding": "greedy"})
    assert column_effects(both, "cues").refused == (
        "No effects by cues: its values overlap, and m is computed within each of them."
    )


def test_an_analysis_by_a_column_is_that_of_each_part(view):
    analysis = find_analysis("retrieval")
    table = analyze_by(analysis, view, ["category"])
    for values, part in parts_of(view, ["category"]):
        own = table[table["category"] == values["category"]].drop(columns="category").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, analysis(part))
    assert list(dict.fromkeys(table["category"]))[-1] == MISSING_VALUE


def test_a_section_is_found_by_its_column_and_by_its_own_name(written, capsys):
    run = written(shots=(4,), retrievers=("knn",), tasks=("shapes",))
    store = Store(run.path)
    for digest in store.read_run()["cells"]:
        samples = [
            {**one, "meta": {"is_Even": i % 2, "種類": "ab"[i % 2]}} for i, one in enumerate(store.samples(digest))
        ]
        store.replace_samples(digest, samples)
    for name in ("by-is_Even", "by-is-even", "by-種類"):
        assert main(["show", str(run.path), name]) == 0
        assert f"By {'種類' if '種' in name else 'is_Even'}" in capsys.readouterr().out
    assert main(["show", str(run.path), "scores", "--by", "is_Even", "--by", "種類"]) == 0
    printed = capsys.readouterr().out
    assert "By is_Even" in printed
    assert "By 種類" in printed
    assert main(["show", str(run.path), "by-is_Evem"]) == 2
    assert "the data of the run has no column 'is_Evem'. Did you mean 'is_Even'?" in capsys.readouterr().err


def test_numbers_are_values_in_ascending_order(run, view):
    split = split_view(view, ["level"])
    (table,) = find_section(view_run(run, by=["level"]), "by-level").tables
    assert [head.text.split(" (")[0] for head in table.heads[1:3]] == ["0", "1"]
    assert set(split.scores["level"]) == {0, 1}


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("categry", "no column 'categry'. Did you mean 'category'? Columns: id, level, category, cues, answer."),
        ("bbox", "the values of 'bbox' are mappings or lists of lists, such as [1, 2]"),
        ("seed", "'seed' is a field of every sample already"),
        ("task", "'task' is an axis of the run, not a column of the data"),
    ],
)
@pytest.mark.parametrize("command", ["show", "report", "analyze", "leaderboard"])
def test_a_column_that_does_not_divide_the_queries_is_a_sentence(run, capsys, command, column, sentence):
    more = {"show": ["scores"], "analyze": ["retrieval"], "leaderboard": ["--as", "leaderboard"]}.get(command, [])
    words = ["report" if command == "leaderboard" else command, str(run.path), *more, "--by", column]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_a_column_has_at_most_a_hundred_values():
    many = pd.DataFrame({"query": range(101), "meta": [{"id": i} for i in range(101)]})
    assert column_values(many[:100], "id").tolist() == list(range(100))
    with pytest.raises(ConfigError, match=r"'id' has 101 values, and a table has at most 100\. Use a"):
        column_values(many, "id")


def test_a_fact_that_differs_between_arms_is_no_column(view):
    facts = view.frame.assign(meta=[{"determined": decoding == "vcd"} for decoding in view.frame["decoding"]])
    with pytest.raises(
        ConfigError, match=r"'determined' is not a column of the data: query 'shapes-0000' has the values"
    ):
        column_values(facts, "determined")


def test_a_leaderboard_by_a_column_compares_within_its_values(run, view, tmp_path, capsys):
    assert main(["report", str(run.path), "--as", "leaderboard", "--by", "category", "--out", str(tmp_path)]) == 0
    assert "vcd: " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index(["subject", "method"])
    for category, part in parts_of(view, ["category"]):
        row = table.loc[category["category"], "vcd"]
        alone = compare(part.scores, {"decoding": "greedy"}, axes=part.axes).set_index("decoding").loc["vcd"]
        assert row["gain"] == pytest.approx(alone["difference"])
        assert row["gain_low"] <= alone["low"] <= alone["high"] <= row["gain_high"], "corrected for the whole page"
        assert (row["gain_low"] > 0 or row["gain_high"] < 0) == (row["gain_p"] <= 0.05)
    assert table.loc[("adversarial", "vcd"), "verdict"] != table.loc[("random", "vcd"), "verdict"]
    assert set(table.index.get_level_values("subject")) == {*CATEGORIES, MISSING_VALUE}


def test_compare_by_a_column_prints_rows_per_value_and_the_test(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["compare", str(run.path), "--by", "category"]) == 0
    out = capsys.readouterr().out
    assert "Effects by category" in out
    assert "Holm over 8 comparisons" in out
    assert main(["compare", str(run.path), "--by", "decoding"]) == 0  # an axis: p is corrected within its values
    assert "Effects by" not in capsys.readouterr().out


def test_the_config_and_else_the_presets_declare_columns(run):
    assert declared_columns({"config": {"by": "type", "task": {"name": "hub", "preset": "pope"}}}) == ("type",)
    nested = {"name": "corrupted", "of": {"name": "hub", "preset": "pope"}}
    assert declared_columns({"config": {"grid": {"task": [nested, {"name": "hub", "preset": "amber"}]}}}) == (
        "category",
        "type",
    )
    assert declared_columns({}) == ()
    assert all("by" not in PRESETS[name] for name in PRESETS)
    for name in PRESETS:
        stored = PRESETS[name].get("columns", {}).get("meta", [])
        assert set(preset_columns(name)) <= ({stored} if isinstance(stored, str) else set(stored))


def test_a_declared_column_that_is_missing_leaves_the_report(run, tmp_path):
    info = json.loads((run.path / "run.json").read_text())
    other = tmp_path / "other"
    other.symlink_to(run.path)
    view = view_run(load_run(other), by=["kind"])
    page = write_report(view).report.read_text(encoding="utf-8")
    assert "The data of the run has no column &#39;kind&#39;" in page
    assert info["config"].get("by") is None


def test_a_column_of_the_config_is_checked_before_the_run(mapping, tmp_path):
    from experiments.config.config import load_config
    from experiments.running.run import run as run_config

    with pytest.raises(ConfigError, match=r"by: the data has no column 'kind'.*Columns: "):
        run_config(load_config(mapping(by=["kind"])), tmp_path)
    with pytest.raises(ConfigError, match=r"by must not repeat a value: 'kind' is there twice"):
        load_config(mapping(by=["kind", "kind"]))
    done = run_config(load_config(mapping(by="answer")), tmp_path)
    assert declared_columns(load_run(done.folder).info) == ("answer",)
    assert view_run(load_run(done.folder)).by_column[0].view is not None


def test_queries_without_a_value_are_counted_once_and_none_has_no_note():
    labels = pd.Series([MISSING_VALUE, MISSING_VALUE, "easy", MISSING_VALUE])
    queries = pd.Series(["q1", "q1", "q2", "q3"])
    assert missing_note(labels, queries, "split").startswith("2 queries have no value of split: they are in the row '")
    assert missing_note(labels[:3], queries[:3], "split").startswith("1 query has no value of split")
    assert missing_note(labels[2:3], queries[2:3], "split") == ""


def test_effects_of_a_column_that_does_not_divide_the_run_have_no_values():
    refused = ColumnEffects("split", None, refused="no column")
    assert refused.values == macro_averages(refused) == []
    assert interactions_frame(refused).empty
    view = SimpleNamespace(scores=pd.DataFrame({"split": ["b", "a", "b"]}))
    assert ColumnEffects("split", view).values == ["b", "a"]
