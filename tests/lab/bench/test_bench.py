"""The benchmark command lists its modules, and one setting makes all of them short."""

import importlib
import subprocess
import sys
from functools import partial

import pytest

import lab.bench
from icl import DataError
from lab.bench import timing
from lab.bench.__main__ import main, parts


def test_every_part_has_rows() -> None:
    names = {
        "combine",
        "decoding",
        "engine",
        "grid",
        "lazy_branches",
        "reading",
        "retrieval",
        "runner",
        "interval_coverage",
        "vllm",
    }
    assert names <= set(parts())
    for name in parts():
        assert callable(importlib.import_module(f"lab.bench.{name}").rows)


def test_a_quick_run_times_one_round_and_prints_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab.bench._Settings, "quick", False)
    module = importlib.import_module("lab.bench.combine")
    monkeypatch.setattr(module, "rows", lambda: [("rounds", str(lab.bench.rounds(5)), "1")])
    monkeypatch.setattr(sys, "argv", ["bench", "combine"])
    main()
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "combine"])
    main()
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if "rounds" in line]
    assert printed == [["rounds", "5", "1"], ["rounds", "1", "1"]]


def test_an_unknown_part_is_an_error_that_lists_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "combin"])
    with pytest.raises(SystemExit, match=r"no part named combin\. Parts: .*combine, .*decoding"):
        main()


def test_a_part_that_cannot_be_measured_ends_in_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> list[lab.bench.Row]:
        raise DataError("a head needs 10 queries")

    monkeypatch.setattr(importlib.import_module("lab.bench.combine"), "rows", rows)
    monkeypatch.setattr(sys, "argv", ["bench", "combine"])
    with pytest.raises(SystemExit, match=r"^a head needs 10 queries$"):
        main()


def test_a_part_takes_its_parameters_as_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("lab.bench.combine")
    monkeypatch.setattr(module, "rows", lambda queries=200, task="": [(task, str(queries + 1), "")])
    monkeypatch.setattr(sys, "argv", ["bench", "combine", "queries=40", "task=two rules"])
    main()
    assert capsys.readouterr().out.split("\n")[2].split() == ["two", "rules", "41"]
    monkeypatch.setattr(sys, "argv", ["bench", "combine", "query=40"])
    with pytest.raises(SystemExit, match=r"combine has no parameter query\. Parameters: queries, task\."):
        main()


def test_help_lists_the_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    main()
    assert f"Parts: {', '.join(parts())}." in capsys.readouterr().out


def test_times_have_a_number_per_round_without_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "process_time", lambda: now[0])

    def spend(name: str, seconds: list[float]) -> None:
        order.append(name)
        now[0] += seconds[order.count(name) - 1]

    def prepare() -> None:
        now[0] += 100

    functions = [partial(spend, "a", [9.0, 1.0, 3.0]), partial(spend, "b", [9.0, 2.0, 2.0])]
    assert timing.cpu_rounds(functions, 2, prepare) == [[1.0, 3.0], [2.0, 2.0]]
    assert order == ["a", "b"] * 3


def test_a_figure_has_its_spread_over_rounds() -> None:
    assert timing.round_ratios([1.0, 3.0], [2.0, 2.0]) == [0.5, 1.5]
    assert timing.with_spread([0.5, 1.5, 0.75], " s") == "0.75 s (0.50 to 1.50)"
    assert timing.with_spread([0.5], " s") == "0.50 s"


def test_the_time_of_children_is_their_cpu_time() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert timing.children_cpu_seconds(lambda: subprocess.run([sys.executable, "-c", busy], check=True)) >= 0.29
    assert timing.children_cpu_seconds(lambda: None) < 0.01
