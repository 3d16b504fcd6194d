"""The walks of docs/design.md name functions that exist, and count the folders that they enter."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
WALKS = {
    title: (int(count), re.findall(r"^\d+\. `([\w.]+):([\w.]+)`", body, re.MULTILINE))
    for title, count, body in re.findall(
        r"^## (.+?) \((\d+) folders\)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
}


def folder(module: str) -> str:
    """The folder of a walk: a folder of `experiments`, or another package."""
    package, _, rest = module.partition(".")
    return f"{package}/{rest.partition('.')[0]}" if package == "experiments" else package


@pytest.mark.parametrize("title", WALKS)
def test_every_stop_of_a_walk_exists(title: str) -> None:
    count, stops = WALKS[title]
    assert len(stops) >= 7
    for module, name in stops:
        assert reduce(getattr, name.split("."), importlib.import_module(module)) is not None
    assert len({folder(module) for module, _ in stops}) == count


def test_there_are_five_walks() -> None:
    assert len(WALKS) == 5
