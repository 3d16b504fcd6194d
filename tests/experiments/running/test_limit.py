"""`icl run --limit N`: the first queries of each task, which the whole run reuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from icl.errors import ConfigError

Mapping = Callable[..., dict[str, Any]]


@pytest.fixture
def config(mapping: Mapping) -> dict[str, Any]:
    """Two numbers of shots on six queries."""
    return mapping(shots=None, grid={"shots": [0, 2]}, compare={"to": {"shots": 0}})


def _lines(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = [json.loads(line) for path in folder.glob("cells/*/*.jsonl") for line in path.read_text().splitlines()]
    return {(line["cell"], line["query"]): {**line, "invocation": 0} for line in lines}


def _files(folder: Path) -> dict[Path, bytes]:
    """All files but caches."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_a_limited_run_computes_the_first_queries_and_the_whole_run_keeps_its_samples(
    config: dict[str, Any], tmp_path: Path
) -> None:
    limited = run(load_config(config), tmp_path, limit=2)
    assert (limited.samples, limited.computed, limited.missing) == (4, 4, 0)
    first = _lines(limited.folder)
    whole = run(load_config(config), tmp_path)
    assert (whole.samples, whole.present, whole.computed) == (12, 4, 8)
    everything = _lines(run(load_config(config), tmp_path / "at_once").folder)
    assert _lines(whole.folder) == everything
    assert first == {key: everything[key] for key in first}
    queries = list(dict.fromkeys(query for _, query in everything))
    assert {query for _, query in first} == set(queries[:2])


def test_a_limited_run_says_that_it_is_not_finished_until_the_whole_run(config: dict[str, Any], tmp_path: Path) -> None:
    folder = run(load_config(config), tmp_path, limit=2).folder
    sentence = "The run is not finished (stopped: --limit 2): this is what it has so far."
    assert view_run(load_run(folder)).unfinished == sentence
    assert run(load_config(config), tmp_path, limit=2).computed == 0
    assert view_run(load_run(folder)).unfinished == sentence
    assert view_run(load_run(folder)).is_sequential
    run(load_config(config), tmp_path)
    assert view_run(load_run(folder)).unfinished == ""


def test_a_limit_of_a_finished_run_changes_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    folder = run(load_config(config), tmp_path).folder
    before = _files(folder)
    outcome = run(load_config(config), tmp_path, limit=3)
    assert (outcome.samples, outcome.present, outcome.computed) == (6, 6, 0)
    assert _files(folder) == before


def test_a_limit_above_the_number_of_queries_is_the_whole_run(config: dict[str, Any], tmp_path: Path) -> None:
    outcome = run(load_config(config), tmp_path, limit=100)
    assert outcome.computed == 12
    assert view_run(load_run(outcome.folder)).unfinished == ""


def test_comparisons_that_end_early_take_no_limit(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stop: --limit takes the first queries, but comparisons that end early"):
        run(load_config(config | {"stop": "when_decided"}), tmp_path, limit=2)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_limited_run_starts_no_workers(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("workers were started")

    monkeypatch.setattr("experiments.running.run.start_workers", refuse)
    launched = load_config(config | {"launcher": {"name": "local", "workers": 2}})
    outcome = run(launched, tmp_path, limit=2)
    assert (outcome.samples, outcome.computed, outcome.jobs) == (4, 4, ())
    with pytest.raises(AssertionError, match="workers were started"):
        run(launched, tmp_path)


def test_the_command_line_passes_the_limit_on(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"name": "t", **config}))
    assert main(["run", str(file), "--limit", "2", "--quiet", "--runs", str(tmp_path)]) == 0
    assert len(_lines(tmp_path / "t")) == 4
