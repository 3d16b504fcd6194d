"""The check of names finds banned words and class names with several meanings."""

from pathlib import Path

import pytest
from lint_names import banned_identifiers, repeated_classes

PATH = Path("module.py")


@pytest.mark.parametrize(
    "code",
    [
        "told = 1",
        "def told_rows(): ...",
        "def rows(seen): ...",
        "class Held: ...",
        "import numpy as found",
        "one._kept = 1",
        "for shown in (): ...",
    ],
)
def test_a_banned_word_is_a_finding(code: str) -> None:
    (finding,) = banned_identifiers(PATH, f"\n{code}\n")
    assert finding.startswith("module.py:2: ")


@pytest.mark.parametrize("code", ["rows = told", "foundation = 1", "most_shots = 1", "from hypothesis import given"])
def test_other_names_and_reads_are_no_finding(code: str) -> None:
    assert not banned_identifiers(PATH, code)


def test_a_public_class_that_two_modules_define_is_a_finding() -> None:
    code = "class Run: ...\nclass _Row: ...\n"
    assert repeated_classes({Path("a.py"): code, Path("b.py"): code}) == ["class Run has 2 meanings: a.py:1, b.py:1"]
    assert not repeated_classes({Path("a.py"): code, Path("b.py"): "class Row: ..."})
