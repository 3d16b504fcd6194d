import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from written_run import paged, viewed, writer, written

from experiments.store.invocations import collect_environment

__all__ = ["paged", "viewed", "writer", "written"]

SHAPES = Path(__file__).parent / "shapes.py"
TOY = Path(__file__).parent / "toy_model.py"


@cache
def environment(folder: str, *variables: str | None) -> dict[str, Any]:
    return collect_environment()


@pytest.fixture(autouse=True)
def environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs collect their environment once for each working directory: each time costs 25 ms, most of it git's."""
    monkeypatch.setattr(
        "experiments.store.invocations.collect_environment",
        lambda: environment(os.getcwd(), *map(os.environ.get, ("PATH", "CUDA_VISIBLE_DEVICES"))),
    )


@pytest.fixture(scope="session")
def shapes() -> str:
    """The test task, by path."""
    return f"{SHAPES}:Shapes"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def mapping(shapes: str) -> Callable[..., dict[str, Any]]:
    """A small config as a mapping: the test task on a fake that copies the last demonstration."""

    def make(**keys: Any) -> dict[str, Any]:
        return {"name": "t", "task": {"name": shapes}, "model": "fake-copy", "shots": 2, **keys}

    return make
