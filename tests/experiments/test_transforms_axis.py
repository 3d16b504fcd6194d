"""Transforms as an axis: labels, holes, and the frame."""

from pathlib import Path
from typing import Any

import pytest

from experiments.api import run


def test_no_transform_is_a_value_beside_one_transform(mapping: Any, tmp_path: Path) -> None:
    frame = run(mapping(grid={"transforms": [[], ["questions"]]}), runs=tmp_path, quiet=True).samples()
    assert frame.groupby("transforms").size().to_dict() == {"none": 6, "questions": 6}


def test_an_exclude_matches_a_list_of_transforms_by_name(mapping: Any, tmp_path: Path) -> None:
    axes = {"shots": [0, 2], "transforms": [[], ["questions"], [{"name": "images", "how": "blank"}]]}
    holes = [
        {"shots": 0, "transforms": ["questions"]},
        {"shots": 0, "transforms": [{"name": "images", "how": "blank"}]},
    ]
    frame = run(mapping(grid=axes, exclude=holes), runs=tmp_path, quiet=True).samples()
    assert set(frame[frame["shots"] == 0]["transforms"]) == {"none"}
    assert set(frame[frame["shots"] == 2]["transforms"]) == {"none", "questions", "images"}


def test_labels_of_one_transform_have_its_parameter(mapping: Any, tmp_path: Path) -> None:
    axes = {"transforms": [[{"name": "images", "how": how}] for how in ("blank", "noise")]}
    frame = run(mapping(grid=axes), runs=tmp_path, quiet=True).samples()
    assert set(frame["transforms"]) == {"images(how=blank)", "images(how=noise)"}


@pytest.mark.parametrize("kind", ["order", "transforms"])
def test_only_components_that_need_the_gold_get_it(kind: str, mapping: Any, tmp_path: Path) -> None:
    def ran(name: str) -> Any:
        node = f"{Path(__file__).parent / 'gold_readers.py'}:{name}"
        config = mapping(name=name, **{kind: node if kind == "order" else [node]})
        return run(config, runs=tmp_path, quiet=True).samples()

    assert all(marks == ["saw Query"] for marks in ran("Blind")["marks"])
    frame = ran("Oracle")
    assert all(marks == ["saw Example, saw the gold"] for marks in frame["marks"])
    assert frame["failed"].isna().all()
