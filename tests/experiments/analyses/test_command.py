"""`icl analyze`."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from experiments.analyses.catalog import find_analysis, list_analyses
from experiments.cli.main import main
from experiments.report.sections.analyses import analysis_section
from experiments.results.loaded_run import load_run


def test_every_analysis_is_listed_with_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["analyze", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and line.rstrip(".") for name, line in list_analyses().items())
    assert len(list_analyses()) > 10


def test_an_analysis_is_printed_and_written(ran: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = ran(model="fake-copy", shots=3)
    assert main(["analyze", str(view.path), "copying", "--metric", "strict"]) == 0
    output = capsys.readouterr().out
    assert main(["show", str(view.path), "copying", "--as", "csv", "--out", str(tmp_path / "c.csv")]) == 0
    assert "Answers copied from demonstrations" in output
    assert "1.000" in output
    assert (tmp_path / "c.csv").read_text().startswith("task,shots,place,copied,")


def test_an_unknown_analysis_names_the_nearest(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(ran().path), "coppying"]) == 2
    assert "no analysis named 'coppying'. Did you mean 'copying'?" in capsys.readouterr().err


def test_a_run_has_the_analysis_as_a_method(ran: Any) -> None:
    view = ran(model="fake-copy", shots=2)
    table = load_run(view.path).analyze("copying", metric="strict")
    assert list(table["place"]) == ["any", "1", "2"]
    assert table["copied_all"][1] == 1.0


@pytest.mark.parametrize("name", list_analyses())
def test_every_analysis_is_a_function(name: str) -> None:
    assert callable(find_analysis(name))


def test_constant_settings_are_printed_once_and_numbers_are_not_wrapped() -> None:
    frame = pd.DataFrame(
        [
            {
                "task": "shapes",
                "shots": 4,
                "order": order,
                "follow": 0.5,
                "low": 0.25,
                "high": 1.0,
                "drop": -0.1,
                "p": 0.0001,
            }
            for order in ("reversed", "as_retrieved")
        ]
    )
    frame.attrs |= {"title": "Title", "signed": ("drop",), "note": "note"}
    out = io.StringIO()
    analysis_section(frame, "own").print(Console(file=out, width=60))
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["Title"],
        ["order", "follow", "interval", "drop", "p"],
        ["reversed", ".500", "[.250,", "1.000]", "−.100", "<", ".001"],
        ["as_retrieved", ".500", "[.250,", "1.000]", "−.100", "<", ".001"],
        ["note"],
        ["All", "rows:", "shapes,", "4", "shots."],
    ]


def test_a_column_with_its_own_heading_is_printed_under_it() -> None:
    frame = pd.DataFrame([{"model": "a", "tokens_s": 20.0, "kl_max": 0.5}])
    frame.attrs["heads"] = {"tokens_s": "tokens/s"}
    analysis_section(frame, "own").print(Console(file=(out := io.StringIO()), width=80))
    head = out.getvalue().splitlines()[1]
    assert "tokens/s" in head
    assert "kl max" in head
