from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from written_run import writer, written

__all__ = ["writer", "written"]

SHAPES = Path(__file__).parent / "shapes.py"
TOY = Path(__file__).parent / "toy_model.py"


@pytest.fixture
def shapes() -> str:
    """The test task, by path."""
    return f"{SHAPES}:Shapes"


@pytest.fixture
def toy() -> str:
    """A model with logits and no weights, by path."""
    return f"{TOY}:ToyModel"


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an experiment file; SHAPES and TOY in it become the paths of the test task and model."""

    def write(text: str, name: str = "grid.yaml") -> Path:
        path = tmp_path / name
        text = dedent(text).lstrip().replace("SHAPES", f"{SHAPES}:Shapes").replace("TOY", f"{TOY}:ToyModel")
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def mapping(shapes: str) -> Callable[..., dict[str, Any]]:
    """A small config as a mapping: the test task on a fake that copies the last demonstration."""

    def make(**keys: Any) -> dict[str, Any]:
        return {"name": "t", "task": {"name": shapes}, "model": "fake-copy", "shots": 2, **keys}

    return make
