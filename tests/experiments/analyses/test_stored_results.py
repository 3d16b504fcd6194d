"""Results of `icl analyze` in the run directory: they come back as they were, and a change of the run outdates them."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.analyses.catalog import analyze_by, find_analysis
from experiments.analyses.stored_results import (
    AnalysisOptions,
    copy_results,
    read_basis,
    read_results,
    store_result,
)
from experiments.cli.main import main
from experiments.report.sections.analyses import analysis_section, figure_spec, measured_points
from experiments.results.view_run import view_run
from experiments.store.store import Store
from icl.errors import ConfigError

OPTIONS = AnalysisOptions("own")
MINE = '''"""How long are answers?

    length  characters
"""
import pandas as pd

def analyze(view, queries=2):
    rows = [{"task": task, "length": float(own["output"].str.len().mean())} for task, own in view.frame.groupby("task")]
    frame = pd.DataFrame(rows)
    frame.attrs["title"] = "Lengths"
    return frame

def broken(view):
    return 1 / 0

def nothing(view):
    return 3

def bad_figure(view):
    frame = analyze(view)
    frame.attrs["figure"] = {"x": "tasks", "y": ["length"], "measure": "characters"}
    return frame

def no_list(view):
    frame = analyze(view)
    frame.attrs["figure"] = {"x": "task", "y": "length", "measure": "characters"}
    return frame

def more(view, other):
    return analyze(view)

def less():
    return 1
'''


@pytest.fixture(scope="module")
def run(writer, tmp_path_factory):
    """A synthetic run. Tests that change more than its stored results take a copy (`folder`)."""
    return writer(
        tmp_path_factory.mktemp("run") / "run", queries=2, tasks=("shapes",), shots=(2,), retrievers=("random",)
    )


@pytest.fixture(autouse=True)
def no_results(run):
    yield
    shutil.rmtree(run.path / "analyses", ignore_errors=True)


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run.path, tmp_path / "copy")


def text(frame):
    analysis_section(frame, "own").print(Console(file=(out := io.StringIO()), width=200))
    return out.getvalue()


@pytest.mark.parametrize(("name", "by"), [("copying", ()), ("answer_forms", ()), ("copying", ("answer",))])
def test_a_table_comes_back_as_it_was_printed(run, name, by):
    view = view_run(run)
    analyze = find_analysis(name)
    table = analyze_by(analyze, view, by) if by else analyze(view)
    store_result(run.path, AnalysisOptions(name, by=by), read_basis(run.path), table, "doc")
    (one,), refusals = read_results(run.path)
    assert text(one.table) == text(table)
    assert (one.options, one.doc, one.outdated, refusals) == (AnalysisOptions(name, by=by), "doc", "", [])


def test_numbers_of_numpy_and_missing_values_come_back(run):
    rows = {"a": [np.int64(3), np.int64(4)], "b": [np.float64(0.1), np.nan], "c": ["x", None], "d": [True, False]}
    store_result(run.path, OPTIONS, read_basis(run.path), pd.DataFrame(rows), "")
    (one,), _ = read_results(run.path)
    assert one.table["a"].tolist() == [3, 4]
    assert one.table["b"][0] == 0.1
    assert one.table[["b", "c"]].isna().sum().tolist() == [1, 1]
    assert one.table["d"].tolist() == [True, False]


def test_a_table_without_values_or_with_half_an_interval_is_shown(run):
    rows = {
        "mean": [np.nan], "low": [np.nan], "high": [np.nan], "max_high": [0.5], "min_low": [0.25], "more": [pd.NA],
        "values": [np.array([1, 2])],
    }  # fmt: skip
    store_result(run.path, OPTIONS, read_basis(run.path), pd.DataFrame(rows), "")
    (one,), _ = read_results(run.path)
    (own,) = analysis_section(one.table, "own").tables
    texts = {head.text: cell.text for head, cell in zip(own.heads, own.rows[0][0], strict=True)}
    assert texts == {"max high": ".500", "min low": ".250", "values": "[1 2]"}
    with pytest.raises(ConfigError, match="two columns have one name"):
        store_result(run.path, OPTIONS, read_basis(run.path), pd.DataFrame([[1, 2]], columns=["a", "a"]), "")


def test_the_command_has_its_options_and_other_options_have_another_file():
    options = AnalysisOptions("copying", "strict", ("decoding=vcd(alpha=1)",), ("a b",), 5)
    assert options.command == (
        "icl analyze RUN copying --metric strict --to 'decoding=vcd(alpha=1)' --by 'a b' --queries 5"
    )
    assert len({options.file, AnalysisOptions("copying").file, AnalysisOptions("copying", queries=5).file}) == 3
    for path in ("../../x/mine.py:analyze", r"C:\x\mine.py:analyze"):
        assert AnalysisOptions(path).file.startswith("mine-py-analyze-")


def test_a_change_of_the_run_outdates_a_result(folder):
    store_result(folder, OPTIONS, read_basis(folder), pd.DataFrame({"a": [1.0]}), "")
    store = Store(folder)
    info, (first, second, *rest) = store.read_run(), store.read_run()["cells"]

    def outdated(**changes):
        store.write_run({**info, **changes})
        (one,), _ = read_results(folder)
        return one.outdated

    assert outdated() == ""
    assert outdated(cells=[first, second]) == f"{len(rest)} cells were removed"
    assert outdated(cells=[*info["cells"], "f" * 16]) == "1 cell was added"
    assert outdated(config={"compare": {"to": {"shots": 0}}}) == "the config's `compare` changed"
    lines = store.cell_folder(first) / "0.jsonl"
    lines.write_bytes(lines.read_bytes().splitlines(keepends=True)[0])
    assert outdated() == "samples of 1 cell changed"


def test_a_file_that_is_damaged_or_of_another_version_is_a_sentence_and_the_others_are_read(run):
    good = store_result(run.path, OPTIONS, read_basis(run.path), pd.DataFrame({"a": [1.0]}), "")
    content = json.loads(good.read_text())
    for name, other in {"x": "{", "y": {**content, "format": 9}, "z": {**content, "rows": [[1, 2]]}}.items():
        good.with_name(f"{name}.json").write_text(other if isinstance(other, str) else json.dumps(other))
    results, refusals = read_results(run.path)
    assert len(results) == 1
    assert [Path(one.split()[0]).name for one in refusals] == ["x.json", "y.json", "z.json"]
    assert all("Delete the file and compute the analysis again." in one for one in refusals)


def test_attributes_of_other_types_are_refused_before_they_are_stored(run):
    frame = pd.DataFrame({"a": [1.0]})
    frame.attrs["note"] = 3
    with pytest.raises(ConfigError, match=r"analysis 'own': attrs\.note of its table cannot be 3"):
        store_result(run.path, OPTIONS, read_basis(run.path), frame, "")
    assert not (run.path / "analyses").exists()


def test_a_copy_has_the_results_that_fit_and_they_fit_the_copy(run, folder):
    changed = next(folder.glob("cells/*/0.jsonl"))
    changed.write_bytes(changed.read_bytes().replace(b"red", b"blue"))
    frame = pd.DataFrame({"where": ["/home/me/x"]})
    store_result(run.path, OPTIONS, read_basis(run.path), frame, "")
    store_result(run.path, AnalysisOptions("old"), read_basis(folder), frame, "")
    copy_results(run.path, folder, lambda value: json.loads(json.dumps(value).replace("/home/me/", "")))
    (one,), refusals = read_results(folder)
    assert (one.options.name, one.outdated, one.table["where"].tolist(), refusals) == ("own", "", ["x"], [])


def test_an_analysis_of_ones_own_is_printed_and_stored(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    assert main(["analyze", str(run.path), "mine.py", "--queries", "5"]) == 0
    assert "Lengths" in capsys.readouterr().out
    (one,), _ = read_results(run.path)
    assert one.doc.startswith("How long are answers?")
    assert one.options.command == "icl analyze RUN mine.py --queries 5"


def test_mistakes_in_analyses_of_ones_own_are_sentences(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    for name, problem in {
        "broken": "mine.py, line 14) failed: ZeroDivisionError",
        "nothing": "mine.py:nothing returned int. Return a pandas DataFrame",
        "bad_figure": "names the column 'tasks', which the table does not have. Did you mean 'task'?",
        "no_list": "y: input should be a valid list",
        "more": "mine.py:more cannot be called: missing a required argument: 'other'. Its parameters are `view`, and",
        "less": "mine.py:less cannot be called: too many positional arguments. Its parameters are `view`, and",
        "missing": "mine.py has no function 'missing'",
    }.items():
        assert main(["analyze", str(run.path), f"mine.py:{name}"]) == 2
        assert problem in " ".join(capsys.readouterr().err.split())


def test_the_analysis_of_the_page_on_extending_has_a_figure_and_intervals(run):
    page = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# lengths\.py\n.*?)```", page, re.DOTALL)
    exec(code, names := {})  # noqa: S102 - the page's own text
    table = names["analyze"](view_run(run))
    spec = figure_spec(table, "lengths")
    points = measured_points(analysis_section(table, "lengths").frame, spec)
    assert len(points) == 3
    assert ((points["low"] <= points["mean"]) & (points["mean"] <= points["high"])).all()


def test_an_installed_package_adds_an_analysis(run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[icl.components]\nanalysis.their_lengths = their_module:analyze\n")
    (tmp_path / "their_module.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["analyze", str(run.path)]) == 0
    assert "their_lengths" in capsys.readouterr().out
    assert main(["analyze", str(run.path), "their_lengths"]) == 0
    assert read_results(run.path)[0][0].options.name == "their_lengths"


def test_a_run_directory_that_cannot_be_written_still_has_its_table_printed(folder, capsys):
    (folder / "analyses").write_text("in the way")
    assert main(["analyze", str(folder), "copying"]) == 0
    output = capsys.readouterr()
    assert "Answers copied from demonstrations" in output.out
    assert "The report will not show this result" in output.err
