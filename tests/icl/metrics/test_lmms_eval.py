"""Scores that a task of lmms-eval computes itself, per sample and over the run."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lmms_task import CODE, TASK, installed, write_task

import icl
from experiments.grid.grid import expand
from icl.errors import ConfigError, DataError, ICLWarning
from icl.harness.task_file import FunctionName
from icl.metrics.base import ScoredSample
from icl.metrics.lmms_eval import side_effect
from icl.metrics.lmms_eval_aggregate import jackknife
from icl.registry import build
from icl.testing.conformance import check_metric
from icl.types import Generation


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    with installed(monkeypatch):
        yield


def metric(path: Path, name: str, kind: str = "lmms_eval", **keys):
    return build("metric", {"name": kind, "task": str(path), "metric": name, **keys}, "x.yaml:3")


def queries(path: Path):
    return build("task", {"name": "lmms_eval", "task": str(path), "trust": True}).queries


def test_the_score_of_a_sample_is_that_of_the_task(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    exact, errors = metric(path, "exact"), metric(path, "errors")
    check_metric(exact)
    assert (exact.label, exact.better, errors.better) == ("exact", "higher", "lower")
    query = queries(path)[0]
    assert [exact.score(Generation(text), query) for text in (" Light ", "dark")] == [1.0, 0.0]
    assert errors.score(Generation("dark"), query) == 1.0


def test_renamed_answers_and_samples_of_other_tasks_have_no_score(tmp_path: Path) -> None:
    from dataclasses import replace

    path, other = write_task(tmp_path / "a"), write_task(tmp_path / "b")
    query = queries(path)[0]
    assert metric(other, "exact").score(Generation("light"), query) is None
    assert metric(path, "exact").score(Generation("light"), replace(query, answers=("dax",))) is None


def test_a_multiple_choice_task_reads_the_scores_of_options_as_losses(tmp_path: Path) -> None:
    choice = TASK.replace("generate_until", "multiple_choice").replace(
        "doc_to_target: answer", "doc_to_target: place\ndoc_to_choice: [light, dark]"
    )
    choice = choice.replace("process_results: !function utils.results\n", "").replace("metric: exact", "metric: acc")
    path = write_task(tmp_path, choice)
    query, acc = queries(path)[2], metric(path, "acc")
    assert query.answer == "dark"
    assert acc.score(Generation("", option_scores={"light": -2.0, "dark": -1.0}), query) == 1.0
    assert acc.score(Generation("", option_scores={"light": -0.5, "dark": -1.0}), query) == 0.0
    assert acc.score(Generation("dark"), query) is None
    with pytest.raises(ConfigError, match="hues scores options"):
        metric(path, "dark_f1", "lmms_eval_aggregate", trust=True)


def test_metrics_of_the_wrong_kind_are_refused_with_the_right_one(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    with pytest.raises(ConfigError, match=r"no metric 'exat'\. Did you mean 'exact'\? It has: exact, errors, dark_f1"):
        metric(path, "exat")
    with pytest.raises(ConfigError, match=r"'dark_f1' of hues is utils\.f1 of the run.* Use lmms_eval_aggregate"):
        metric(path, "dark_f1")
    with pytest.raises(ConfigError, match="runs code"):
        metric(path, "dark_f1", "lmms_eval_aggregate")
    hundred = write_task(tmp_path / "b", code=CODE.replace('"exact": right', '"exact": 100 * right'))
    with pytest.raises(DataError, match=r"'exact' of hues is 100\.0 for 'test-000000', not a number in \[0, 1\]"):
        metric(hundred, "exact").score(Generation("light"), queries(hundred)[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("def f1(pairs):", "import requests\n\n\ndef f1(pairs):\n    requests.post('x')"), "asks a judge"),
        (("def f1(pairs):", "def f1(pairs, args):"), "writes files"),
        (("    right =", "    open('log', 'a')\n    right ="), "writes files"),
    ],
)
def test_metrics_that_ask_a_judge_or_write_files_are_refused(
    tmp_path: Path, edit: tuple[str, str], message: str
) -> None:
    path = write_task(tmp_path, code=CODE.replace(*edit))
    with pytest.raises(ConfigError, match=rf"'dark_f1' of hues {message} \(utils\.py: .*Use metrics of the toolkit"):
        metric(path, "dark_f1", "lmms_eval_aggregate", trust=True)


def test_filters_of_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a filter_list"):
        metric(write_task(tmp_path, TASK + "filter_list: [{name: a, filter: []}]\n"), "exact")


def samples(path: Path, outputs: list[str], groups: list[str | None]) -> list[ScoredSample]:
    return [
        ScoredSample(q.id, 0.0, group, text, q.answers, (), q.meta)
        for q, text, group in zip(queries(path), outputs, groups, strict=False)
    ]


OUTPUTS = ["dark", "light", "dark", "light", "dark", "light", "dark", "dark"]


def f1(outputs: list[str], golds: list[str]) -> float:
    hits = sum(o == "dark" == g for o, g in zip(outputs, golds, strict=True))
    return 2 * hits / (outputs.count("dark") + golds.count("dark"))


def test_the_mean_of_the_numbers_is_the_aggregate_and_their_spread_the_jackknife(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    aggregate = metric(path, "dark_f1", "lmms_eval_aggregate", trust=True)
    check_metric(aggregate)
    cell = samples(path, OUTPUTS, [None] * 8)
    golds = [s.gold[0] for s in cell]
    numbers = aggregate.run_level(cell).numbers()
    assert numbers.mean() == pytest.approx(f1(OUTPUTS, golds), abs=1e-12)
    left = np.array([f1(OUTPUTS[:i] + OUTPUTS[i + 1 :], golds[:i] + golds[i + 1 :]) for i in range(8)])
    assert numbers.var(ddof=1) / 8 == pytest.approx(7 / 8 * ((left - left.mean()) ** 2).sum(), rel=1e-9)


def test_an_aggregate_on_a_scale_of_its_own_has_an_interval_on_both_sides(tmp_path: Path) -> None:
    from experiments.stats.run_level_frames import RunLevelScores
    from experiments.stats.run_statistics import estimate_run_statistic

    def interval(folder: str, factor: str, **keys) -> np.ndarray:
        path = write_task(tmp_path / folder, code=CODE.replace("return 2 * hits", f"return {factor} * 2 * hits"))
        aggregate = metric(path, "dark_f1", "lmms_eval_aggregate", trust=True, **keys)
        cell = samples(path, OUTPUTS, [None] * 8)
        scores = RunLevelScores(aggregate, cell, np.zeros(8, dtype=int))
        one = estimate_run_statistic(scores, np.arange(8), list(range(8)))
        return np.array([one.low, one.mean, one.high])

    share, scaled = interval("a", "1"), interval("b", "2000")
    assert 0 <= share[0] < share[1] < share[2] <= 1
    assert scaled[1] == pytest.approx(2000 * share[1])
    assert scaled[1] - scaled[0] == pytest.approx(scaled[2] - scaled[1])
    assert interval("c", "2000", scale=2000) == pytest.approx(share)


def test_groups_are_left_out_whole_and_failed_samples_have_no_part(tmp_path: Path) -> None:
    pairs_only = CODE.replace("    hits =", "    assert len(pairs) % 2 == 0\n    hits =")
    path = write_task(tmp_path, code=pairs_only)
    aggregate = metric(path, "dark_f1", "lmms_eval_aggregate", trust=True)
    groups = [f"g{i // 2}" for i in range(8)]
    cell = samples(path, OUTPUTS, groups)
    golds = [s.gold[0] for s in cell]
    numbers = aggregate.run_level(cell).numbers()
    assert np.mean(numbers) == pytest.approx(f1(OUTPUTS, golds))
    assert all(numbers[i] == numbers[i + 1] for i in range(0, 8, 2))
    failed = aggregate.run_level([ScoredSample(cell[0].query, None, "g0"), *cell[1:]]).numbers()
    assert np.isnan(failed[:2]).all()
    assert np.mean(failed[2:]) == pytest.approx(f1(OUTPUTS[2:], golds[2:]))
    with pytest.raises(DataError, match=r"the aggregation utils\.f1 of hues failed on 7 values: AssertionError"):
        aggregate.run_level(samples(path, OUTPUTS, [None] * 8))


def test_the_jackknife_of_a_mean_is_the_mean_of_any_blocks() -> None:
    values, sizes = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]), [2, 1, 3]
    blocks = np.split(np.arange(6), np.cumsum(sizes)[:-1])
    left = [float(np.delete(values, block).mean()) for block in blocks]
    numbers = jackknife(sizes, float(values.mean()), left)
    assert numbers == pytest.approx([float(values[block].mean()) for block in blocks])
    assert np.average(numbers, weights=sizes) == pytest.approx(values.mean())


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_task(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "name: s\ntask: {name: lmms_eval, task: hues.yaml, trust: true}\nmodel: fake-vote\n"
        "metrics:\n  - {name: lmms_eval, task: hues.yaml, metric: exact}\n"
        "  - {name: lmms_eval_aggregate, task: hues.yaml, metric: dark_f1, trust: true}\n"
        "  - {name: lmms_eval, task: hues.yaml, metric: errors}\n"
        "grid: {shots: [2, 4]}\ncompare: {to: {shots: 2}, metric: dark_f1}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s.yaml"


def test_a_run_has_demonstrations_and_paired_differences_of_the_tasks_scores(study: Path) -> None:
    run = icl.run(study, quiet=True)
    frame = run.samples()
    assert frame.attrs["metrics"] == ("exact", "dark_f1", "errors")
    assert frame.attrs["better"]["errors"] == "lower"
    for _, cell in frame.groupby("cell"):
        outputs, golds = list(cell["output"]), [gold[0] for gold in cell["gold"]]
        assert cell["dark_f1"].mean() == pytest.approx(f1(outputs, golds))
        assert cell["exact"].mean() == np.mean([o == g for o, g in zip(outputs, golds, strict=True)])
    assert {len(demos) for demos in frame["demos"]} == {2, 4}
    two, four = (frame[frame["shots"] == shots]["dark_f1"].mean() for shots in (2, 4))
    assert run.compare()["difference"].tolist() == pytest.approx([four - two])


def test_code_of_a_run_directory_runs_with_trust_only(study: Path) -> None:
    icl.run(study, quiet=True)
    folder = study.parent / "runs" / "s"
    ran = study.parent / "ran"
    (study.parent / "utils.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n{CODE}")
    with pytest.warns(ICLWarning, match="'dark_f1'.*trust: True, which can run code"):
        frame = icl.load_run(folder).samples()
    assert "dark_f1" not in frame
    assert "exact" in frame
    with pytest.raises(icl.errors.ConfigError, match=r"task 'lmms_eval': .*trust: True, which can run code"):
        expand(icl.load_run(folder).load_config())
    with pytest.warns(ICLWarning, match="were edited"):
        assert "dark_f1" not in icl.load_run(folder, trust=True).samples()
    assert not ran.exists()
    (study.parent / "utils.py").write_text(CODE)
    assert "dark_f1" in icl.load_run(folder, trust=True).samples()
    assert json.loads((folder / "run.json").read_text())["metrics"]["dark_f1"]["files"]


def test_an_aggregation_that_fails_is_a_warning_and_the_other_scores_stay(study: Path) -> None:
    (study.parent / "utils.py").write_text(CODE.replace("    hits =", "    assert len(pairs) == 0\n    hits ="))
    with pytest.warns(ICLWarning, match=r"the aggregation utils\.f1 of hues failed on 6 values: AssertionError"):
        frame = icl.run(study, overrides=["compare.metric=exact"], quiet=True).samples()
    assert "dark_f1" not in frame
    assert frame["exact"].notna().all()


def effect(folder: Path, code: str, **others: str) -> str:
    (folder / "utils.py").write_text(code)
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    return side_effect(FunctionName("utils.f1", folder))


@pytest.mark.parametrize(
    "code",
    [
        "def f1(values):\n    return sum(values)\n",
        "import openai\ndef f1(values):\n    return 1\ndef judge():\n    return openai.ask()\n",
        "def f1(values):\n    return open('names.txt').read()\n",
        "import requests.sub as r\ndef f1(r):\n    return 1\n",
    ],
)
def test_functions_that_only_compute_are_accepted(tmp_path: Path, code: str) -> None:
    assert effect(tmp_path, code) == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import requests\ndef f1(v):\n    return requests.post('u')\n", "asks a judge (utils.py: f1 uses requests)"),
        ("def f1(v):\n    return ask(v)\ndef ask(v):\n    return client.chat(v)\n"
         "try:\n    from openai import OpenAI\n    client = OpenAI()\nexcept ImportError:\n    client = None\n",
         "asks a judge (utils.py: client uses openai)"),
        ("from lmms_eval.llm_judge import get_server\ndef f1(v):\n    return get_server()\n",
         "asks a judge (utils.py: f1 uses lmms_eval.llm_judge)"),
        ("def f1(v):\n    import openai\n    return openai.x\n", "asks a judge (utils.py: f1 uses openai)"),
        ("from other import judge\ndef f1(v):\n    return judge(v)\n", "asks a judge (other.py: judge uses httpx)"),
        ("import other\ndef f1(v):\n    return other.judge(v)\n", "asks a judge (other.py: judge uses httpx)"),
        ("def f1(v, args):\n    return 1\n", "writes files (utils.py: f1 calls lmms-eval's writer of submissions)"),
        ("def f1(v):\n    with open('x', 'w') as f:\n        f.write('')\n", "writes files (utils.py: f1 calls open)"),
        ("import json\ndef f1(v):\n    json.dump(v, x)\n", "writes files (utils.py: f1 calls dump)"),
    ],
)  # fmt: skip
def test_judges_and_writers_are_named_with_their_place(tmp_path: Path, code: str, message: str) -> None:
    other = "import httpx\ndef judge(v):\n    return httpx.post(v)\n"
    assert effect(tmp_path, code, other=other) == message


def test_code_that_cannot_be_read_has_no_finding(tmp_path: Path) -> None:
    assert effect(tmp_path, "def f1(:\n") == ""
    (tmp_path / "utils.py").unlink()
    assert side_effect(FunctionName("utils.f1", tmp_path)) == ""


def test_edited_code_is_scanned_again(tmp_path: Path) -> None:
    assert effect(tmp_path, "def f1(v):\n    return 1\n") == ""
    assert effect(tmp_path, "def f1(v):\n    v.to_csv('x')\n") == "writes files (utils.py: f1 calls to_csv)"
