"""Short names of an axis' values: what is none by two spellings is one value."""

from pathlib import Path
from typing import Any

from experiments.api import run
from experiments.labels import labels


def test_no_component_and_an_empty_list_are_both_none() -> None:
    assert labels([None, [], [{"name": "x"}]]) == ["none", "none", "x"]


def test_an_axis_that_cannot_matter_in_some_cells_is_no_axis_of_the_table(mapping: Any, tmp_path: Path) -> None:
    grid = {"shots": [0, 2], "retriever": ["random", "balanced"]}
    node = {key: value for key, value in mapping(grid=grid).items() if key != "shots"}
    frame = run(node, runs=tmp_path, quiet=True).samples()
    varying = {axis for axis in frame.attrs["axes"] if frame[axis].nunique() > 1}
    assert varying == {"shots", "retriever"}
