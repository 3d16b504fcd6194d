"""Real runs of fakes with known results of analyses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.api import run
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run

PARTS = Path(__file__).parent / "parts.py"


@pytest.fixture
def ran(tmp_path: Path, mapping: Callable[..., dict[str, Any]]) -> Callable[..., RunView]:
    """`ran(model="fake-vote", shots=3)`: the view of a run of the test task."""

    def make(metric: str | None = None, **keys: Any) -> RunView:
        config = mapping(**{"seeds": [0, 1], **keys})
        return view_run(run(config, runs=tmp_path, quiet=True), metric)

    return make


@pytest.fixture
def scripted() -> Callable[[str], dict[str, Any]]:
    """A model that answers with a function of `parts.py`."""
    return lambda name: {"name": "fake-scripted", "answer": f"{PARTS}:{name}"}
