"""Transforms as an axis: labels, holes, and the frame."""

from pathlib import Path
from typing import Any

from experiments.api import run


def test_no_transform_is_a_value_beside_one_transform(mapping: Any, tmp_path: Path) -> None:
    frame = run(mapping(grid={"transforms": [[], ["questions"]]}), runs=tmp_path, quiet=True).samples()
    assert frame.groupby("transforms").size().to_dict() == {"none": 6, "questions": 6}


def test_an_exclude_matches_a_list_of_transforms_by_name(mapping: Any, tmp_path: Path) -> None:
    axes = {"shots": [0, 2], "transforms": [[], ["questions"], [{"name": "pictures", "how": "blank"}]]}
    holes = [
        {"shots": 0, "transforms": ["questions"]},
        {"shots": 0, "transforms": [{"name": "pictures", "how": "blank"}]},
    ]
    frame = run(mapping(grid=axes, exclude=holes), runs=tmp_path, quiet=True).samples()
    assert set(frame[frame["shots"] == 0]["transforms"]) == {"none"}
    assert set(frame[frame["shots"] == 2]["transforms"]) == {"none", "questions", "pictures"}


def test_one_transform_is_told_apart_by_its_parameter(mapping: Any, tmp_path: Path) -> None:
    axes = {"transforms": [[{"name": "pictures", "how": how}] for how in ("blank", "noise")]}
    frame = run(mapping(grid=axes), runs=tmp_path, quiet=True).samples()
    assert set(frame["transforms"]) == {"pictures(how=blank)", "pictures(how=noise)"}
