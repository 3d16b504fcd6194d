"""The benchmark command: every part is found by being there, and one setting makes all of them short."""

import importlib
import sys

import pytest

import experiments.bench
from experiments.bench.__main__ import main, parts


def test_every_part_has_rows() -> None:
    names = {"combine", "decoding", "engine", "grid", "lazy_branches", "retrieval", "runner", "statistics", "vllm"}
    assert names <= set(parts())
    for name in parts():
        assert callable(importlib.import_module(f"experiments.bench.{name}").rows)


def test_a_quick_run_times_one_round_and_prints_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments.bench._Settings, "quick", False)
    module = importlib.import_module("experiments.bench.combine")
    monkeypatch.setattr(module, "rows", lambda: [("rounds", str(experiments.bench.rounds(5)), "1")])
    monkeypatch.setattr(sys, "argv", ["bench", "combine"])
    main()
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "combine"])
    main()
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if "rounds" in line]
    assert printed == [["rounds", "5", "1"], ["rounds", "1", "1"]]


def test_an_unknown_part_is_an_error_that_lists_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "combin"])
    with pytest.raises(SystemExit, match=r"no part named combin\. Parts: combine, decoding"):
        main()
