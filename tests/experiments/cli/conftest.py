import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from experiments.cli.main import main

PARTS = Path(__file__).parents[2] / "experiments"


class Outcome(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def icl(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["icl"])

    def call(*words: str) -> Outcome:
        status = main(words)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def grid(tmp_path: Path) -> Callable[[str], str]:
    """Writes grid.yaml; SHAPES and TOY stand for a test task and model."""

    def write(text: str) -> str:
        text = dedent(text).lstrip().replace("SHAPES", f"{PARTS / 'shapes.py'}:Shapes")
        (tmp_path / "grid.yaml").write_text(text.replace("TOY", f"{PARTS / 'toy_model.py'}:ToyModel"))
        return "grid.yaml"

    return write
