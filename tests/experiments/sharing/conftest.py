import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.api import run
from experiments.sharing.card import make_card
from experiments.store.store import write_json

PARTS = Path(__file__).parents[1]
GRID = """
    name: t
    task: {name: SHAPES, queries: 5}
    model: TOY
    metrics: [lenient, macro_f1]
    observe: none
    shots: 2
    grid: {decoding: [greedy, {name: mask_only, of: vcd}]}
    compare: {to: {decoding: greedy}}
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its card."""
    folder = tmp_path_factory.mktemp("made")
    text = GRID.replace("SHAPES", f"{PARTS / 'shapes.py'}:Shapes").replace("TOY", f"{PARTS / 'toy_model.py'}:ToyModel")
    (folder / "grid.yaml").write_text(text)
    done = run(folder / "grid.yaml", runs=folder, quiet=True)
    write_json(done.path / "card.json", make_card(done))
    return done.path


@pytest.fixture
def copy(made: Path) -> Path:
    """A copy of the run that a test may change, at the same depth."""
    target = made.parent / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)
    return target


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replaces a text in a file, which must have it."""

    def call(path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))

    return call
