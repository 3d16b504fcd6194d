"""What a finished run shows again without reading its samples, and when it does read them."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.report import remembered
from experiments.report.remembered import KEPT, show_end


def _shown(folder: Path, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_end(folder, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_same_end_is_shown_from_memory(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(queries=3)
    first = _shown(run.path)
    monkeypatch.setattr("experiments.results.loaded_run.load_run", lambda *_: pytest.fail("the samples were read"))
    assert _shown(run.path) == first
    with pytest.raises(pytest.fail.Exception, match="the samples were read"):
        _shown(run.path, width=90)


@pytest.mark.parametrize("change", ["code", "samples"])
def test_changed_code_and_changed_samples_are_looked_at(
    written: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run = written(queries=3)
    _shown(run.path)
    (run.path / KEPT).write_text((run.path / KEPT).read_text().replace("What it shows", "What was remembered"))
    assert "What was remembered" in _shown(run.path)
    if change == "code":
        monkeypatch.setattr(remembered, "_code", lambda: "another")
    else:
        path = next(run.path.glob("cells/*/*.jsonl"))
        path.write_text(path.read_text() + "\n")
    assert "What was remembered" not in _shown(run.path)


def test_the_code_is_what_tells_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statistic that is changed within a version is another code, and so is a template."""
    import shutil

    import experiments

    for changed in ("stats/intervals.py", "report/templates/report.css"):
        copy = tmp_path / changed.replace("/", "_")
        shutil.copytree(Path(experiments.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(experiments, "__file__", str(copy / "__init__.py"))
        remembered._code.cache_clear()
        before = remembered._code()
        (copy / changed).write_text((copy / changed).read_text() + "\n")
        remembered._code.cache_clear()
        assert remembered._code() != before
    remembered._code.cache_clear()
