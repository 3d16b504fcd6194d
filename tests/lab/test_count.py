"""The weight of a room is counted as stated, and a room over its budget is named."""

import tomllib

from lab.count import ROOT, Weight, over_budget, weigh, weigh_revision

MODULE = '''"""A docstring
of two lines."""

import os
from pathlib import (
    Path,
)

# a comment


def name(path: Path) -> str:
    """The name."""
    if path.is_file():
        return os.fspath(path)
    return ""
'''


def test_statements_imports_and_code_lines_are_counted() -> None:
    weight = weigh(MODULE)
    # docstring, two imports, def, docstring, if, two returns
    assert weight == Weight(files=1, statements=8, import_lines=4, code_lines=8)


def test_a_room_over_its_budget_without_one_or_far_below_it_gets_a_sentence() -> None:
    rooms = {"icl": Weight(1, 101), "icl/new": Weight(1, 5), "prompts": Weight(1, 100), "decoding": Weight(1, 500)}
    lines = over_budget(rooms, {"icl": 100, "prompts": 100, "decoding": 900})
    assert [line.partition(" has ")[0] for line in lines] == ["decoding", "icl", "icl/new"]
    assert "lower its budget of 900" in lines[0]
    assert "101 statements, its budget is 100" in lines[1]
    assert "[tool.budgets.statements]" in lines[2]


def test_every_room_is_within_its_budget() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert over_budget(weigh_revision(), settings["tool"]["budgets"]["statements"]) == []
