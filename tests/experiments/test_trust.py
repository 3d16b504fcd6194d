"""Reading a run directory imports no code that it names, unless the user agrees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import icl
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.running.run import run
from icl.errors import ICLWarning, StoreError
from icl.registry import describe

CODE = """
from dataclasses import dataclass
from pathlib import Path

Path("imported").touch()

@dataclass(frozen=True)
class Best:
    better = "higher"

    def score(self, generation, example):
        return float(generation.text == "yes")

    def run_level(self, samples):
        return [max(s.score for s in samples)] * len(samples)
"""
STUDY = (
    "name: s\ntask: {name: existence, queries: 6, pool_size: 6}\nmodel: fake-vote\nshots: 1\n"
    "metrics: [lenient, 'best.py:Best']\ngrid: {retriever: [random, balanced]}\n"
)


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory of somebody with a metric of their own, and its code beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.py").write_text(CODE)
    (tmp_path / "s.yaml").write_text(STUDY)
    icl.run("s.yaml", runs=tmp_path / "runs", quiet=True)
    (tmp_path / "best.py").write_text(CODE.replace('"imported"', '"stolen"'))
    return tmp_path / "runs" / "s"


@pytest.mark.filterwarnings("ignore::icl.errors.ICLWarning")
@pytest.mark.parametrize(
    "words",
    [("report",), ("compare", "--to", "retriever=random"), ("show",), ("analyze", "vote"), ("show", "prompt")],
)
def test_commands_that_read_a_run_import_nothing_of_it(
    received: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    main([words[0], str(received), *words[1:]])
    assert not Path("stolen").exists()
    if words == ("show", "prompt"):
        assert "the code best.py:Best is not imported without --trust" in capsys.readouterr().err


def test_the_stored_numbers_are_shown_with_a_warning(received: Path) -> None:
    with pytest.warns(ICLWarning, match=r"'Best' is a run-level metric with code of its own \(best\.py:Best\)"):
        frame = icl.load_run(received).samples()
    lines = [json.loads(line) for path in received.glob("cells/*/*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(frame["Best"]) == sorted(line["scores"]["Best"] for line in lines)


def test_changed_code_is_not_imported_even_where_the_run_is_trusted(received: Path) -> None:
    with pytest.warns(ICLWarning, match=r"best\.py:Best has changed"):
        assert "Best" not in icl.load_run(received, trust=True).samples()
    assert not Path("stolen").exists()
    Path("best.py").write_text(CODE)
    assert set(icl.load_run(received, trust=True).samples()["Best"]) == {1.0}


def test_code_of_a_trusted_run_is_searched_beside_its_experiment_file_first(
    received: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("best.py").write_text(CODE)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "best.py").write_text(CODE.replace('"imported"', '"stolen"'))
    trusted = icl.load_run(received, trust=True)
    assert set(trusted.samples()["Best"]) == {1.0}
    (metric,) = [m for name, m in expand(trusted.load_config()).metrics.items() if name == "Best"]
    assert describe(metric) == {
        k: v for k, v in trusted.info["metrics"]["Best"].items() if k not in ("better", "run_level")
    }
    assert not Path("stolen").exists()


def test_a_run_that_was_moved_with_its_experiment_file_finds_its_code(
    received: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("best.py").write_text(CODE)
    moved = tmp_path_factory.mktemp("moved") / "project"
    received.parents[1].rename(moved)
    monkeypatch.chdir("/")
    assert set(icl.load_run(moved / "runs" / "s", trust=True).samples()["Best"]) == {1.0}


def test_a_launcher_of_a_run_directory_is_not_imported(received: Path, yaml_file: Callable[..., Path]) -> None:
    Path("launcher.py").write_text("from pathlib import Path\nPath('stolen').touch()\n")
    (received / "launch").mkdir(exist_ok=True)
    launch: dict[str, Any] = {"id": "1", "launcher": {"name": "launcher.py:Mine"}, "workers": [], "cells": []}
    (received / "launch" / "launch.json").write_text(json.dumps(launch | {"since": "", "jobs": {}}))
    Path("best.py").write_text(CODE)
    with pytest.raises(StoreError, match=r"the launcher launcher\.py:Mine is code of its own"):
        run(load_config("s.yaml"), received.parent)
    assert not Path("stolen").exists()
