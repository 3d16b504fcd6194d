"""Components of notebook cells, lambdas and nested functions are identified by their code and what it reads."""

import functools
import os
import subprocess
import sys
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from icl.component_json import describe
from icl.errors import ConfigError
from icl.loading import code_digest

CELL = """
    from dataclasses import dataclass, field
    from functools import cached_property
    import numpy as np

    WEIGHT = 0.5

    def helper(x):
        return [i for i in range(x) if i in {1, 2, 3}]

    class Base:
        def shared(self):
            return super().__repr__()

    @dataclass(frozen=True)
    class Mine(Base):
        rate: float = 0.1
        names: list = field(default_factory=list)

        @property
        def size(self):
            return helper(3)

        @cached_property
        def table(self):
            return np.zeros(4)

        @staticmethod
        def twice(x):
            return 2 * x

        def score(self, generation, example):
            def inner(x):
                return x * WEIGHT
            return inner(len(generation.text))
"""
EDITS = {
    "a method": ("return inner(len", "return 1 - inner(len"),
    "a function inside a method": ("return x * WEIGHT", "return x / WEIGHT"),
    "a global value": ("WEIGHT = 0.5", "WEIGHT = 0.25"),
    "a global function": ("range(x)", "range(x + 1)"),
    "a constant of a function": ("{1, 2, 3}", "{1, 2, 4}"),
    "a base class": ("super().__repr__()", "'base'"),
    "the default of a field": ("rate: float = 0.1", "rate: float = 0.2"),
    "the factory of a field": ("default_factory=list", "default_factory=lambda: [1]"),
    "a property": ("helper(3)", "helper(4)"),
    "a cached property": ("np.zeros(4)", "np.ones(4)"),
    "a static method": ("2 * x", "3 * x"),
}


def cell(text: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a notebook cell defines: a module without a file."""
    module = ModuleType("cell_module")
    monkeypatch.setitem(sys.modules, "cell_module", module)
    exec(dedent(text), module.__dict__)  # noqa: S102
    return module


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_cell_changes_the_digest(edit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(cell(CELL, monkeypatch).Mine)
    old, new = EDITS[edit]
    assert CELL.count(old) == 1
    after = code_digest(cell(CELL.replace(old, new), monkeypatch).Mine)
    assert before != after


def test_the_same_cell_and_comments_keep_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(cell(CELL, monkeypatch).Mine)
    assert before == code_digest(cell(CELL, monkeypatch).Mine)
    assert before == code_digest(cell("\n\n# a comment\n" + dedent(CELL), monkeypatch).Mine)


def test_the_digest_is_the_same_in_every_process() -> None:
    program = dedent(CELL) + "\nfrom icl.loading import code_digest\nprint(code_digest(Mine))"
    command = [sys.executable, "-c", program]
    outputs = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().strip()) == 12


def test_lambdas_and_functions_of_functions_are_known_by_what_they_hold() -> None:
    def make(word: str) -> Any:
        def answer(request: Any) -> str:
            return word

        return answer

    red, blue = make("red"), make("blue")
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    partials = [functools.partial(max, 1), functools.partial(max, 2)]
    assert describe(red) != describe(blue)
    assert describe(red) == describe(make("red"))
    assert describe(first) != describe(second)
    assert describe(partials[0]) != describe(partials[1])


def test_code_that_reads_what_has_no_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import threading\nLOCK = threading.Lock()\ndef answer(request):\n    return LOCK"
    with pytest.raises(
        ConfigError, match=r"answer reads LOCK, a lock that has no digest .* put the component into a file"
    ):
        code_digest(cell(text, monkeypatch).answer)


def test_a_large_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl.code_files.MAX_VALUE_BYTES", 1000)
    text = "import numpy as np\nTABLE = np.zeros({size})\ndef answer(request):\n    return TABLE"
    assert code_digest(cell(text.format(size=10), monkeypatch).answer)
    with pytest.raises(ConfigError, match="answer reads TABLE"):
        code_digest(cell(text.format(size=1000), monkeypatch).answer)
