"""The time of a run, estimated from a pilot."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.running.pilot import ClassTime, RunTime, time_run
from experiments.running.run import run
from experiments.store.run_state import load_run_state
from experiments.store.store import Store
from icl.errors import ModelError, PlanError
from icl.models.base import Request
from icl.models.fake import FakeModel

SECONDS = 0.004


@dataclass(frozen=True, kw_only=True)
class Slow(FakeModel):
    """Takes SECONDS for each demonstration and the query."""

    fails: bool = False
    text: str = "red"

    def answer_to(self, request: Request) -> str:
        if self.fails:
            raise ModelError("the device is gone.")
        time.sleep(SECONDS * len(request.prompt.images))
        return self.text


def silent(what: str, done: int, of: int) -> None:
    """Reports nothing."""


def test_first_queries_cost_more_than_the_rate() -> None:
    """One second for the pool, then a tenth of a second per query; the last two rates span the spread."""
    one = ClassTime("t", 100, ((2, 1.2), (4, 0.48), (8, 0.8)))
    estimate, low, high = one.seconds
    assert estimate == pytest.approx(1.0 + 10)
    assert low == estimate
    assert high == pytest.approx(1.2 - 0.24 + 12)
    assert ClassTime("t", 6, ((2, 1.2), (4, 0.5))).seconds == pytest.approx((1.7, 1.7, 1.7))
    total = RunTime(3.0, (one, one), 28, 200)
    assert total.seconds[0] == pytest.approx(3 + 2 * 11)
    assert next(total.lines()).startswith("about 0:25 (0:25 to 0:29) on this machine")
    assert any("4 workers" in line for line in total.lines(4))


def test_the_rates_are_those_of_the_last_two_blocks_after_the_first() -> None:
    slow_start = ClassTime("t", 100, ((2, 1.2), (4, 2.0), (8, 0.8), (16, 3.2)))
    assert slow_start.rates == pytest.approx((0.2, 0.1, 0.2))
    assert ClassTime("t", 100, ((2, 1.2),)).rates == pytest.approx((0.6, 0.6, 0.6))


def test_a_pilot_predicts_the_time_of_the_rest(mapping: Any, tmp_path: Path) -> None:
    task = {**mapping()["task"], "queries": 30}
    config = load_config(mapping(task=task, model=Slow(), grid={"shots": [0, 3]}, seeds=[0, 1]))
    grid, store = expand(config), Store(tmp_path / "runs" / "t")
    estimate = time_run(grid, load_run_state(store, grid), silent)
    assert {one.name: one.queries for one in estimate.classes} == {"shapes · 0 shots": 30, "shapes · 3 shots": 30}
    assert estimate.samples < estimate.of == 30 * 4
    assert not store.folder.exists()
    few, many = (next(one.seconds[0] for one in estimate.classes if f" {shots} " in one.name) for shots in (0, 3))
    all_few, all_many = 30 * SECONDS, 30 * 2 * 4 * SECONDS  # equal prompts of the seeds are answered once
    assert all_few < few < 5 * all_few < all_many
    assert all_many < many < 3 * all_many


def test_only_missing_samples_are_timed(mapping: Any, tmp_path: Path) -> None:
    config = load_config(mapping(grid={"shots": [0, 2]}))
    run(load_config(mapping(grid={"shots": [0]})), tmp_path)
    grid = expand(config)
    state = load_run_state(Store(tmp_path / "t"), grid)
    before = {digest: set(queries) for digest, queries in state.missing.items()}
    assert [one.name for one in time_run(grid, state, silent).classes] == ["shapes · 2 shots"]
    assert state.missing == before
    run(config, tmp_path)
    with pytest.raises(PlanError, match="all samples are finished"):
        time_run(grid, load_run_state(Store(tmp_path / "t"), grid), silent)


def test_a_pilot_says_how_many_outputs_would_be_unread(mapping: Any, tmp_path: Path) -> None:
    def lines(text: str) -> list[str]:
        config = load_config(mapping(model=Slow(text=text), metrics=["lenient"]))
        grid, store = expand(config), Store(tmp_path / "runs" / "t")
        return list(time_run(grid, load_run_state(store, grid), silent).lines())

    assert "6 of 6 outputs of the pilot are unread" in "".join(lines("It may be red, or blue."))
    assert not any("unread" in line for line in lines("red"))


def test_a_pilot_whose_samples_all_fail_gives_no_time(mapping: Any, tmp_path: Path) -> None:
    grid = expand(load_config(mapping(model=Slow(fails=True))))
    with pytest.raises((PlanError, ModelError), match="the device is gone"):
        time_run(grid, load_run_state(Store(tmp_path / "t"), grid), silent)


def test_the_plan_prints_the_time_and_writes_nothing(
    yaml_file: Any, shapes: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    file = yaml_file(f"task: {{name: {shapes}, queries: 6}}\nmodel: fake-gold\ngrid: {{shots: [0, 2]}}\n")
    assert main(["plan", str(file), "--time"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time    ")]
    assert lines[0].startswith("time    about 0:0")
    assert "shapes · 2 shots" in lines[1]
    assert not (tmp_path / "runs").exists()
