import json
from pathlib import Path

import numpy as np
import pytest
from harness_logs import vlmevalkit_rows, write_inspect, write_lm_eval, write_lmms, write_vlmevalkit

from experiments.config.config import load_config
from experiments.imports.logs import Axis, ImportedRun, read_logs, write_imported_run
from experiments.results.invocations import version_differences
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from experiments.stats.significance import mcnemar_p
from experiments.store.invocations import read_invocations
from experiments.store.store import Store
from icl.errors import ConfigError, DataError, StoreError

DRAW = np.random.default_rng(3)
PLAIN = [float(score) for score in DRAW.random(60) < 0.8]
HOT = [score * float(stays) for score, stays in zip(PLAIN, DRAW.random(60) < 0.6, strict=True)]


def imported(folder: Path, axis: Axis = "model", metric: str = "", group: str = "", **paths: Path) -> ImportedRun:
    return write_imported_run(folder, {name: read_logs(path) for name, path in paths.items()}, axis, metric, group)


@pytest.fixture
def two_arms(tmp_path: Path) -> dict[str, Path]:
    return {"plain": write_lmms(tmp_path / "a", PLAIN), "hot": write_lmms(tmp_path / "b", HOT)}


def test_the_scores_are_those_of_the_log_and_p_is_that_of_the_exact_mcnemar_test(
    tmp_path: Path, two_arms: dict[str, Path]
) -> None:
    done = imported(tmp_path / "run", **two_arms)
    assert (done.cells, done.samples, done.metrics) == (2, 120, ("exact",))
    run_of_logs = load_run(tmp_path / "run")
    frame = run_of_logs.samples()
    for name, scores in (("plain", PLAIN), ("hot", HOT)):
        own = frame[frame["model"] == name].set_index("query")["exact"]
        assert [own[f"pope_mini-{i}"] for i in range(60)] == scores
    reported = {name: read_logs(path)[0].reported["exact"] for name, path in two_arms.items()}
    assert dict(run_of_logs.scores()[["model", "mean"]].to_numpy()) == pytest.approx(reported)
    (row,) = run_of_logs.compare().to_dict("records")
    lost = sum(a > b for a, b in zip(PLAIN, HOT, strict=True))
    gained = sum(a < b for a, b in zip(PLAIN, HOT, strict=True))
    assert lost > 5
    assert row["p"] == pytest.approx(mcnemar_p(lost, gained))
    assert row["difference"] == pytest.approx(np.mean(HOT) - np.mean(PLAIN))


def test_a_cell_says_where_its_samples_come_from(tmp_path: Path, two_arms: dict[str, Path]) -> None:
    imported(tmp_path / "run", **two_arms)
    store = Store(tmp_path / "run")
    cells = [store.read_cell(digest) or {} for digest in (store.read_run() or {})["cells"]]
    origin = {"from": "lmms-eval", "version": "0.7.3", "model_args": "pretrained=llava-hf/x", "date": "20260102_030405"}
    assert [cell["imported"] for cell in cells] == [origin, origin]
    assert [cell["labels"]["model"] for cell in cells] == ["plain", "hot"]
    records = read_invocations(store)
    assert [record["versions"] for record in records.values()] == [{"lmms-eval": "0.7.3"}] * 2
    assert version_differences(load_run(store.folder).samples(), store) == ""


def test_names_can_be_decodings(tmp_path: Path, two_arms: dict[str, Path]) -> None:
    imported(tmp_path / "run", axis="decoding", **two_arms)
    cells = load_run(tmp_path / "run").cells()
    assert list(cells["decoding"]) == ["plain", "hot"]
    assert set(cells["model"]) == {"imported"}


def test_a_config_does_not_continue_an_imported_run(
    tmp_path: Path, two_arms: dict[str, Path], shapes: str, toy: str
) -> None:
    imported(tmp_path / "run", **two_arms)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
    config = load_config({"name": "run", "task": shapes, "model": toy})
    with pytest.raises(StoreError, match="was imported from logs of another harness"):
        run(config, tmp_path)
    with pytest.raises(StoreError, match="was imported from logs of another harness"):
        load_run(tmp_path / "run").load_config()
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}


def test_samples_that_not_all_logs_have_or_that_differ_are_counted_and_left_out(tmp_path: Path) -> None:
    plain, hot = write_lmms(tmp_path / "a", PLAIN[:10]), write_lmms(tmp_path / "b", HOT[2:10], first=2)
    path = next(hot.glob("*.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:3]:
        line["input"] += " Answer briefly."
    lines[3]["target"] = "maybe"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = imported(tmp_path / "run", plain=plain, hot=hot)
    assert done.samples == 2 * 4
    assert "pope_mini: left out 2 of 10 samples that not all logs have." in done.notes
    assert "pope_mini: left out 4 of 10 samples whose prompt or target differs." in done.notes
    frame = load_run(tmp_path / "run").samples()
    for _, own in frame.groupby("model"):
        assert sorted(own["query"]) == [f"pope_mini-{i}" for i in range(6, 10)]


def test_predictions_that_do_not_pair_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    plain = write_lmms(tmp_path / "a", PLAIN[:4])
    others = {
        "no sample is in all logs": write_lmms(tmp_path / "b", PLAIN[:4], first=100),
        "the prompts or targets of all samples differ": write_lmms(tmp_path / "c", PLAIN[:4], questions="Other {}?"),
        "no task is in all logs": write_lmms(tmp_path / "d", PLAIN[:4], task="mme"),
    }
    for message, other in others.items():
        with pytest.raises(DataError, match=message):
            imported(tmp_path / "run", plain=plain, other=other)
        assert not (tmp_path / "run").exists()


def test_a_task_that_one_log_lacks_is_left_out_with_a_sentence(tmp_path: Path, two_arms: dict[str, Path]) -> None:
    write_lmms(two_arms["hot"], HOT, task="mme")
    done = imported(tmp_path / "run", **two_arms)
    assert done.cells == 2
    assert any("mme (only in hot)" in note for note in done.notes)


def test_a_query_that_is_logged_twice_is_refused(tmp_path: Path) -> None:
    folder = write_lmms(tmp_path / "a", PLAIN[:3])
    path = next(folder.glob("*.jsonl"))
    path.write_text(path.read_text() * 2)
    with pytest.raises(DataError, match="has sample 0 of 'pope_mini' 2 times"):
        imported(tmp_path / "run", plain=folder)


def test_a_metric_that_is_no_mean_of_its_samples_is_left_out_unless_it_is_named(
    tmp_path: Path, two_arms: dict[str, Path]
) -> None:
    done = imported(tmp_path / "run", **two_arms)
    assert any("left out the metric 'pope_f1'" in note and "reports 0.123" in note for note in done.notes)
    named = imported(tmp_path / "named", metric="pope_f1", **two_arms)
    assert named.metrics == ("exact", "pope_f1")
    assert load_run(tmp_path / "named").compare()["difference"][0] == pytest.approx(np.mean(HOT) - np.mean(PLAIN))
    with pytest.raises(ConfigError, match=r"no usable score 'exat'. Did you mean 'exact'\?"):
        imported(tmp_path / "other", metric="exat", **two_arms)


def test_scores_outside_the_unit_interval_and_reserved_names_are_left_out(tmp_path: Path) -> None:
    folder = write_lmms(tmp_path / "a", [0.5, 7.0], metric="rating", f1=3.75)
    with pytest.raises(DataError, match=r"no score .*'rating': .* has the value 7"):
        imported(tmp_path / "run", a=folder)
    folder = write_lmms(tmp_path / "b", PLAIN[:4], metric="output", f1=float(np.mean(PLAIN[:4])))
    done = imported(tmp_path / "run", b=folder)
    assert done.metrics == ("pope_f1",)
    assert any("'output': a column of every run has this name" in note for note in done.notes)


def test_a_metric_that_is_better_when_lower_stays_so(tmp_path: Path) -> None:
    imported(tmp_path / "run", a=write_lmms(tmp_path / "a", PLAIN, metric="cer", lower=True))
    assert load_run(tmp_path / "run").samples().attrs["better"]["cer"] == "lower"


def test_a_column_groups_samples_into_clusters(tmp_path: Path) -> None:
    logs = {name: write_lm_eval(tmp_path / name, scores, scores) for name, scores in (("a", PLAIN), ("b", HOT))}
    imported(tmp_path / "run", group="domain", **logs)
    run_of_logs = load_run(tmp_path / "run")
    assert set(run_of_logs.samples()["group"]) == {"d0", "d1", "d2"}
    assert set(run_of_logs.scores("exact_match,strict-match")["clusters"]) == {3}
    with pytest.raises(DataError, match=r"no column 'domein'. Did you mean 'domain'\?"):
        imported(tmp_path / "other", group="domein", **logs)


def test_the_epochs_of_inspect_are_seeds_and_failed_samples_stay_failed(tmp_path: Path) -> None:
    first = {(f"q{i}", epoch): "C" for i in range(8) for epoch in (1, 2)}
    second: dict[tuple[str, int], str | None] = {pair: "I" if pair[0] < "q3" else "C" for pair in first}
    paths = {"a": write_inspect(tmp_path / "a", first), "b": write_inspect(tmp_path / "b", second | {("q7", 2): None})}
    done = imported(tmp_path / "run", **paths)
    assert (done.cells, done.samples) == (4, 32)
    frame = load_run(tmp_path / "run").samples()
    assert set(frame["seed"]) == {1, 2}
    failed = frame[frame["failed"].notna()]
    assert [(row.model, row.query, row.seed) for row in failed.itertuples()] == [("b", "colors-q7", 2)]
    (means,) = [frame[frame["failed"].isna()].groupby("model")["match"].mean().to_dict()]
    assert means == pytest.approx({"a": 1.0, "b": 9 / 15})


def test_rotations_of_vlmevalkit_count_as_one_cluster(tmp_path: Path) -> None:
    hits = {"a": [1, 1, 0, 1], "b": [0, 1, 0, 1]}
    paths = {
        name: write_vlmevalkit(
            tmp_path / name / f"{name}_MMBench.tsv",
            [*vlmevalkit_rows(own), *vlmevalkit_rows(own, first=1_000_000)],
        )
        for name, own in hits.items()
    }
    imported(tmp_path / "run", **paths)
    assert set(load_run(tmp_path / "run").scores()["clusters"]) == {4}
    assert dict(load_run(tmp_path / "run").scores()[["model", "mean"]].to_numpy()) == {"a": 0.75, "b": 0.5}


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path, two_arms: dict[str, Path]) -> None:
    imported(tmp_path / "run", **two_arms)
    with pytest.raises(StoreError, match="exists and is not empty"):
        imported(tmp_path / "run", **two_arms)


def test_a_score_that_one_log_of_a_task_lacks_is_left_out(tmp_path: Path) -> None:
    judged = write_vlmevalkit(tmp_path / "a" / "a_MMBench_exact_matching_result.tsv", vlmevalkit_rows([1, 0]))
    plain = write_vlmevalkit(tmp_path / "b" / "b_MMBench.tsv", vlmevalkit_rows([1, 0], has_hits=False))
    with pytest.raises(DataError, match=r"left out the metric 'hit': .* has no such score"):
        imported(tmp_path / "run", a=judged, b=plain)


def test_tasks_without_the_metric_of_comparisons_are_left_out(tmp_path: Path, two_arms: dict[str, Path]) -> None:
    for name, scores in (("plain", PLAIN), ("hot", HOT)):
        write_lmms(two_arms[name], scores[:20], task="mme", metric="mme_score")
        write_lmms(two_arms[name], scores[:30], task="vqa_mini")
    for metric, numbers in (("exact", {"pope_mini": 60, "vqa_mini": 30}), ("mme_score", {"mme": 20})):
        done = imported(tmp_path / metric, metric=metric, **two_arms)
        assert any(f"no score '{metric}'" in note for note in done.notes)
        assert done.metrics == (metric,)
        compared = load_run(tmp_path / metric).compare()
        assert sorted(compared["pairs"]) == sorted(numbers.values())
        for row in compared.to_dict("records"):
            assert row["mean"] == pytest.approx(np.mean(HOT[: row["pairs"]]))


def test_a_log_in_which_every_sample_failed_is_refused_with_the_reason(tmp_path: Path) -> None:
    log = write_inspect(tmp_path / "a", {("q1", 1): None, ("q2", 1): None})
    with pytest.raises(DataError, match=r"all samples of .* failed, the first with: out of memory"):
        imported(tmp_path / "run", a=log)
