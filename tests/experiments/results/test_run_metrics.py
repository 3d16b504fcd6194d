"""A score of a whole run, from the answers to the table: on a model whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import icl
from experiments.report.sections.scores import scores_section
from experiments.results.loaded_run import load_run
from experiments.results.run_metrics import run_level
from experiments.results.view_run import view_run
from experiments.stats.run_level_frames import is_run_level
from icl.errors import ICLWarning, StoreError
from icl.untrusted import untrusted

TASK = {"name": "existence", "queries": 40, "pool_size": 20}


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    config: dict[str, Any] = {
        "name": "t",
        "task": TASK,
        "model": "fake-vote",
        "grid": {"shots": [1, 3]},
        "seeds": [0, 1],
        "metrics": ["lenient", "f1", "group_accuracy", {"name": "precision", "positive": "no"}],
        "compare": {"to": {"shots": 1}, "metric": "f1"},
    }
    icl.run(config, runs=tmp_path, quiet=True)
    return tmp_path / "t"


def f1(rows: Any) -> float:
    predicted, expected = rows["output"] == "yes", rows["gold"].map(lambda gold: gold[0] == "yes")
    return float(2 * (predicted & expected).sum() / (predicted.sum() + expected.sum()))


def test_a_column_averages_to_the_statistic_of_each_cell(ran: Path) -> None:
    frame = load_run(ran).samples()
    for _, rows in frame.groupby("cell"):
        assert rows["f1"].mean() == pytest.approx(f1(rows))
        pairs = rows.groupby("group")["lenient"].min()
        assert len(pairs) == 20
        assert rows["group_accuracy"].mean() == pytest.approx(pairs.mean())
        assert rows["lenient"].isin([0, 1]).all()


def test_a_frame_is_written_and_read_without_its_samples(ran: Path, tmp_path: Path) -> None:
    frame = load_run(ran).samples()
    frame[["query", "f1", "sample:number"]].to_parquet(tmp_path / "f.parquet")
    read = pd.read_parquet(tmp_path / "f.parquet")
    assert read["f1"].tolist() == frame["f1"].tolist()
    with pytest.raises(ValueError, match="lost its attrs"):
        is_run_level(read, "f1")


def test_the_table_shows_the_mean_over_seeds_and_pairs_the_arms(ran: Path) -> None:
    run = load_run(ran)
    frame = run.samples()
    scores = scores_section(view_run(run)).frame
    assert scores is not None
    arms = scores[~scores["vote"].eq(True)].set_index("shots")
    means = {shots: np.mean([f1(rows) for _, rows in own.groupby("cell")]) for shots, own in frame.groupby("shots")}
    assert arms["mean"].to_dict() == pytest.approx(means)
    assert ((arms["low"] < arms["mean"]) & (arms["mean"] < arms["high"])).all()
    assert not view_run(run).of_samples
    assert view_run(run, "lenient").of_samples
    (comparison,) = run.compare().to_dict("records")
    assert comparison["difference"] == pytest.approx(means[3] - means[1])
    assert comparison["pairs"] == 80


def test_the_vote_of_the_demonstrations_is_judged_over_the_run_too(ran: Path) -> None:
    frame = load_run(ran).samples()
    assert frame["vote:f1"].to_numpy() == pytest.approx(frame["f1"].to_numpy())  # the fake says what the vote says


def test_an_empty_output_is_an_output(tmp_path: Path) -> None:
    config = {"name": "t", "task": {"name": "captions", "queries": 4, "pool_size": 4}, "model": "fake-copy", "shots": 0}
    frame = icl.run({**config, "metrics": ["cider", "caption_length"]}, runs=tmp_path, quiet=True).samples()
    assert list(frame["cider"]) == list(frame["caption_length"]) == [0.0] * 4


def test_code_that_is_not_found_is_a_sentence(ran: Path) -> None:
    run_file = ran / "run.json"
    run_file.write_text(run_file.read_text().replace('"name": "f1"', '"name": "gone.py:F1"'))
    with pytest.warns(
        ICLWarning, match=r"the run-level metric 'f1' is computed when the run is read, which needs its code"
    ):
        frame = load_run(ran, trust=True).samples()
    assert "f1" not in frame


ANSWERS = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Said:
    \"\"\"The share of yes among all outputs, which no score tells.\"\"\"
    better = "neither"

    def score(self, generation, example):
        return 1.0

    def run_level(self, samples):
        return [None if s.score is None or s.output is None else float(s.output == "yes") for s in samples]
"""


def test_a_baseline_is_judged_by_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said.py").write_text(ANSWERS)
    monkeypatch.chdir(tmp_path)
    config: dict[str, Any] = {
        "name": "t",
        "task": TASK,
        "model": "fake-vote",
        "grid": {"shots": [0, 3]},
        "seeds": [0, 1],
    }
    frame = icl.run({**config, "metrics": ["lenient", "said.py:Said"]}, runs=tmp_path, quiet=True).samples()
    with_demos = frame[frame["shots"] == 3]
    assert with_demos["vote:Said"].tolist() == with_demos["Said"].tolist()  # the fake says what the vote says
    assert with_demos["last_copy:Said"].tolist() == [float(demos[-1][2] == "yes") for demos in with_demos["demos"]]
    assert frame[frame["shots"] == 0]["vote:Said"].isna().all()


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Best:
    \"\"\"The best seed's share of yes.\"\"\"
    better = "higher"

    def score(self, generation, example):
        return float(generation.text == "yes")

    def run_level(self, samples):
        return [max(s.score for s in samples)] * len(samples)
"""


def test_one_of_ones_own_is_found_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "best.py").write_text(OWN)
    (folder / "s.yaml").write_text(
        "name: s\ntask: {name: existence, queries: 6, pool_size: 6}\nmodel: fake-vote\nshots: 1\n"
        "metrics: [lenient, best.py:Best]\n"
    )
    monkeypatch.chdir(tmp_path)
    run = icl.run(folder / "s.yaml", runs=tmp_path / "runs", quiet=True)
    assert set(run.samples()["Best"]) == {1.0}
    (folder / "best.py").write_text(OWN.replace("max(", "min("))
    with pytest.warns(ICLWarning, match=r"'Best' is computed when the run is read, and best\.py:Best has changed\."):
        frame = run.samples()
    assert ("Best" in frame, frame.attrs["metrics"]) == (False, ("lenient",))  # it blocks no other metric
    with pytest.warns(ICLWarning, match="has changed"):
        assert view_run(run).metric == "lenient"
    with (
        pytest.warns(ICLWarning),
        pytest.raises(StoreError, match=r"has changed\..* Other scores are readable \(--metric\): lenient"),
    ):
        view_run(run, "Best")
    run = icl.run(folder / "s.yaml", runs=tmp_path / "runs", quiet=True)
    assert set(run.samples()["Best"]) == {0.0}


def test_code_of_a_run_is_not_imported_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"cell": ["c", "c"], "query": ["a", "b"], "Mine": [0.25, 0.5]})
    info = {"metrics": {"Mine": {"name": "mine.py:Mine", "run_level": True}}}
    warning = pytest.warns(ICLWarning, match="code of its own .*The mean of its stored numbers is shown")
    with untrusted(tmp_path), warning:
        stored = run_level(frame, info, ())
    assert stored["Mine"].tolist() == [0.25, 0.5]
    plain = {"metrics": {"Mine": {"name": "mine.py:Mine"}}}
    assert run_level(frame, plain, ()) is frame
    assert run_level(frame[:0], info, ()).empty


def test_without_samples_or_a_run_level_metric_nothing_is_computed() -> None:
    """Such frames may have no column `cell` either."""
    f1_node = {"metrics": {"m": {"name": "f1", "run_level": True}}}
    for frame, info in (
        (pd.DataFrame(), f1_node),
        (pd.DataFrame({"m": [1.0]}), {"metrics": {"m": {"name": "lenient"}}}),
    ):
        assert run_level(frame, info, ()) is frame
