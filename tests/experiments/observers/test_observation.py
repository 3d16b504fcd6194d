"""What observers receive from real runs of `icl run`, and what happens when one fails."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from experiments.api import load_run, run
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.observers.observation import _scores
from icl.errors import ConfigError, ICLWarning
from icl.metrics.accuracy import Lenient

OBSERVER = '''
"""Writes each call as a JSON line."""
import json
import os
from dataclasses import dataclass

from icl import Observer


@dataclass
class Log(Observer):
    """A log of calls."""

    file: str = "calls.jsonl"
    fails: str = ""  # the method that fails

    def started(self, run, settings):
        self.add("started", str(run), settings["task"]["name"])

    def cell(self, labels, scores, samples):
        self.add("cell", labels, scores, samples)

    def table(self, name, columns, rows):
        self.add("table", name, columns, rows)

    def artifact(self, path):
        self.add("artifact", str(path))

    def finished(self, state):
        self.add("finished", state)

    def add(self, method, *arguments):
        if method == self.fails:
            raise OSError("nobody answers\\n  at this address.")
        with open(self.file, "a") as file:
            file.write(json.dumps([method, *arguments, os.getpid()]) + "\\n")


@dataclass
class Stop(Observer):
    """Ctrl-C after the first cell."""

    def cell(self, labels, scores, samples):
        if not os.path.exists("stopped"):
            open("stopped", "w").close()
            raise KeyboardInterrupt
'''
GRID = """
    name: t
    task: {name: SHAPES, queries: 9}
    model: fake-copy
    metrics: [lenient, macro_f1]
    observe: [mine.py:Log]
    grid: {shots: [2, 3], retriever: [random, balanced]}
"""
Calls = Callable[..., list[list[Any]]]


@pytest.fixture
def study(yaml_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(dedent(OBSERVER))
    return yaml_file(GRID)


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """The calls so far, without the process id; of one method if it is named."""

    def read(method: str = "", file: str = "calls.jsonl") -> list[list[Any]]:
        path = tmp_path / file
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
        return [line[:-1] for line in lines if line[0].startswith(method)]

    return read


def test_an_observer_in_one_file_receives_settings_cells_tables_and_the_report(study: Path, calls: Calls) -> None:
    assert main(["run", str(study)]) == 0
    assert calls()[0] == ["started", "runs/t", f"{Path(__file__).parents[1] / 'shapes.py'}:Shapes"]
    methods = [method for method, *_ in calls()]
    assert methods == sorted(methods, key=["started", "cell", "table", "artifact", "finished"].index)
    frame = load_run("runs/t").samples()
    scores = {(c[1]["shots"], c[1]["retriever"]): (c[2], c[3]) for c in calls("cell")}
    assert [set(c[1]) for c in calls("cell")] == [{"shots", "retriever"}] * 4, "only axes that vary"
    for arm, rows in frame.groupby(["shots", "retriever"]):
        values, samples = scores[arm]
        assert samples == len(rows) == 9
        for metric in ("lenient", "macro_f1"):  # macro_f1 is a statistic of the cell, not a mean of stored scores
            assert values[metric] == pytest.approx(rows[metric].mean())
    _, _, columns, rows = next(call for call in calls("table") if call[1] == "scores")
    table = load_run("runs/t").scores()
    assert columns[: len(table.columns)] == list(table.columns)
    means = [row[columns.index("mean")] for row in rows if not row[columns.index("vote")]]
    assert sorted(means) == pytest.approx(sorted(table["mean"]))
    assert calls("artifact") == [["artifact", "runs/t/report.html"]]
    assert calls("finished") == [["finished", "finished"]]


def test_observers_change_neither_cells_nor_samples(study: Path) -> None:
    observed, plain = (expand(load_config(study, more)) for more in ([], ["observe=none"]))
    assert (len(observed.observers), len(plain.observers)) == (1, 0)
    assert [cell.digest for cell in observed.cells] == [cell.digest for cell in plain.cells]


def test_an_observer_that_fails_ends_with_one_note_and_neither_the_run_nor_others_do(study: Path, calls: Calls) -> None:
    bad = [
        {"name": "mine.py:Log", "file": f"{method}.jsonl", "fails": method}
        for method in ("started", "cell", "table", "finished")
    ]
    with pytest.warns(ICLWarning, match="observer 'Log' failed") as caught:
        done = run(study, {"observe": [*bad, "mine.py:Log"]}, quiet=True)
    assert [str(one.message).partition(". The run goes on without it")[0] for one in caught] == [
        f"observer 'Log' failed in {one['fails']}: OSError: nobody answers at this address" for one in bad
    ]
    assert done.cells()["finished"].tolist() == [9] * 4
    assert (len(calls("cell")), calls("finished")) == (4, [["finished", "finished"]])
    assert [len(calls(file=one["file"])) for one in bad] == [0, 1, 5, 6], "each got what came before its failure"


def test_a_finished_run_is_reported_again_only_to_observers_that_lack_it(study: Path, calls: Calls) -> None:
    with pytest.warns(ICLWarning, match="failed in table"):
        run(study, ["observe=[mine.py:Log, {name: 'mine.py:Log', file: other.jsonl, fails: table}]"], quiet=True)
    before = calls()
    (study.parent / "other.jsonl").unlink()
    run(study, ["observe=[mine.py:Log, {name: 'mine.py:Log', file: other.jsonl}]"], quiet=True)
    assert calls() == before, "it has everything"
    assert [call for call in calls(file="other.jsonl") if call[0] != "started"] == [
        call for call in before if call[0] != "started"
    ]
    run(study, ["metrics=[strict]"], quiet=True)  # other scores, without a new answer
    assert calls("cell")[-1][2].keys() == {"strict"}


def test_a_run_that_was_stopped_reports_its_finished_cells_first(study: Path, calls: Calls) -> None:
    assert main(["run", str(study), "observe=[mine.py:Log, mine.py:Stop]"]) == 130
    assert [call[0] for call in calls()] == ["started", "cell", "finished"]
    assert calls("finished") == [["finished", "interrupted"]]
    run(study, quiet=True)
    cells = [json.dumps(call[1]) for call in calls("cell")]
    assert (len(cells), len(set(cells)), cells[1]) == (5, 4, cells[0])


def test_with_workers_the_process_that_started_them_calls_the_observers(
    study: Path, calls: Calls, tmp_path: Path
) -> None:
    run(study, {"launcher.workers": 2}, quiet=True)
    assert {json.loads(line)[-1] for line in (tmp_path / "calls.jsonl").read_text().splitlines()} == {os.getpid()}
    assert [call[0] for call in calls()] == ["started", *["cell"] * 4, "table", "finished"]
    assert [call[3] for call in calls("cell")] == [9] * 4


@pytest.mark.parametrize(
    ("observe", "sentence"),
    [
        ("3", r"observe\[0\]: an observer must be a name or a mapping with the key 'name', not 3"),
        ("[mlfow]", r"observe\[0\]: no observer named 'mlfow'. Did you mean 'mlflow'"),
        ("[local]", "no observer named 'local'. That is a launcher"),
        ("[{name: wandb, projct: x}]", "has no parameter 'projct'. Did you mean 'project'"),
        ("[{name: wandb, mode: of}]", "mode: input should be 'online' or 'offline', not 'of'"),
    ],
)
def test_a_wrong_observer_is_refused_with_its_place(study: Path, observe: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        expand(load_config(study, [f"observe={observe}"]))


def test_a_tracker_gets_both_ends_of_a_metric_with_many_unread_outputs() -> None:
    samples = [{"scores": {"lenient": float(i > 2)}, "unread": ["lenient"] * (i % 2)} for i in range(4)]
    assert _scores(samples, {"lenient": Lenient()}) == {"lenient_low": 0.0, "lenient_high": 0.5}
    assert _scores([one | {"unread": []} for one in samples], {"lenient": Lenient()}) == {"lenient": 0.25}
