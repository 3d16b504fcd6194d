"""The spinner: a line that is removed on a terminal, a line per interval in a log."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.terminal import progress as module
from experiments.terminal.progress import spinner


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_shows_one_line_that_is_removed_at_the_end(clock: list[float]) -> None:
    out = Screen()
    with spinner(out=out) as report_progress:
        report_progress("reading", 0, 0)
        for i in range(100):
            clock[0] += 0.05
            report_progress("counting", i, 100)
    frames = out.getvalue().split("\r\x1b[K")
    assert frames[:2] == ["", "reading      …"]
    assert frames[-1] == ""
    assert 30 <= len(frames) <= 55
    assert frames[-2].startswith("counting     ━━━━━━━━━━━━━━━━━━━━━━━")
    assert all(len(line) < 80 for line in frames)


def test_the_line_is_removed_after_an_error() -> None:
    def broken(out: Screen) -> None:
        with spinner(out=out) as report_progress:
            report_progress("reading", 0, 0)
            raise ValueError("x")

    out = Screen()
    with pytest.raises(ValueError, match="x"):
        broken(out)
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_log_has_a_line_per_interval(clock: list[float]) -> None:
    out = io.StringIO()
    with spinner(out=out) as report_progress:
        for i in range(40):
            clock[0] += 1
            report_progress("counting", i, 40)
    assert out.getvalue().splitlines() == ["counting     14/40", "counting     29/40"]


def test_a_plan_reports_its_progress(mapping: Callable[..., dict[str, Any]], shapes: str) -> None:
    tasks = [{"name": shapes, "queries": 5}, {"name": shapes, "queries": 5, "salt": "x"}]
    node = {key: value for key, value in mapping().items() if key not in ("shots", "task")}
    reports: list[tuple[str, int, int]] = []
    make_plan(
        expand(load_config({**node, "grid": {"task": tasks, "shots": [0, 1, 2]}})),
        0,
        lambda *all_: reports.append(all_),
    )
    assert reports == [("counting", i, 30) for i in range(30)]


def test_a_short_plan_reports_no_progress_without_a_terminal(
    yaml_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(yaml_file("task: SHAPES\nmodel: fake-copy\n"))]) == 0
    assert capsys.readouterr().err == ""


def test_the_next_phase_is_printed_at_once(clock: list[float]) -> None:
    out = Screen()
    with spinner(out=out) as report_progress:
        report_progress("starting", 0, 0)
        report_progress("reading", 0, 0)
        report_progress("reading", 1, 9)
    assert [part.split()[0] for part in out.getvalue().split("\r\x1b[K") if part] == ["starting", "reading"]
