"""The stored summary of a run: it is shown only while nothing that it was made from has changed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.report import terminal
from experiments.report.terminal import read_summary, write_summary

CONSOLE = Console(width=80)


def make(folder: Path, **config: Any) -> Path:
    (folder / "cells").mkdir(parents=True)
    (folder / "cells" / "0.jsonl").write_text("1")
    (folder / "report.html").write_text("")
    (folder / "run.json").write_text(json.dumps({"format": 2, "config": config, "cells": [], "sessions": []}))
    write_summary(folder, CONSOLE, "the table")
    return folder


def test_a_summary_is_shown_until_a_file_of_the_run_or_the_width_changes(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", name="t")
    assert read_summary(folder, CONSOLE) == "the table"
    assert read_summary(folder, Console(width=90)) is None
    before = (folder / "cells" / "0.jsonl").stat()
    (folder / "cells" / "0.jsonl").write_text("2")  # of the same size
    os.utime(folder / "cells" / "0.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_summary(folder, CONSOLE) is None


def test_a_summary_is_made_again_after_the_code_of_the_toolkit_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code" / "icl").mkdir(parents=True)
    (tmp_path / "code" / "icl" / "a.py").write_text("1")
    monkeypatch.setattr(terminal, "ROOT", tmp_path / "code")
    folder = make(tmp_path / "t", name="t")
    assert read_summary(folder, CONSOLE) == "the table"
    (tmp_path / "code" / "icl" / "a.py").write_text("2")
    assert read_summary(folder, CONSOLE) is None


@pytest.mark.parametrize("config", [{"metrics": ["mine.py:Mine"]}, {"model": {"name": "hf", "trust": True}}])
def test_a_run_with_code_of_others_has_no_stored_summary(config: dict[str, Any], tmp_path: Path) -> None:
    assert read_summary(make(tmp_path / "t", **config), CONSOLE) is None


def test_there_is_no_stored_summary_without_the_report(tmp_path: Path) -> None:
    folder = make(tmp_path / "t", name="t")
    (folder / "report.html").unlink()
    write_summary(folder, CONSOLE, "the table")
    assert read_summary(folder, CONSOLE) is None
