"""Short labels of an axis' values."""

import json
from pathlib import Path
from typing import Any

from experiments.api import run
from experiments.grid.axis_labels import short_labels


def test_no_component_and_an_empty_list_are_both_none() -> None:
    assert short_labels([None, [], [{"name": "x"}]]) == ["none", "none", "x"]


def test_an_axis_that_cannot_matter_in_some_cells_is_no_axis_of_the_table(mapping: Any, tmp_path: Path) -> None:
    grid = {"shots": [0, 2], "retriever": ["random", "balanced"]}
    node = {key: value for key, value in mapping(grid=grid).items() if key != "shots"}
    frame = run(node, runs=tmp_path, quiet=True).samples()
    varying = {axis for axis in frame.attrs["axes"] if frame[axis].nunique() > 1}
    assert varying == {"shots", "retriever"}


def knn(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": "knn", "by": "image", "embedder": {"name": name, **parameters}}


def reranked(of: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return {"name": "reranked", "candidates": 50, "of": of, **parameters}


def test_the_name_of_an_inner_component_replaces_its_parameters_if_the_others_have_another() -> None:
    assert short_labels([knn("pixels", size=16), knn("histogram", bins=8)]) == [
        "knn(embedder=pixels)",
        "knn(embedder=histogram)",
    ]
    assert short_labels([knn("pixels", size=16), knn("pixels", size=8), knn("histogram", bins=8)]) == [
        "knn(embedder=pixels, size=16)",
        "knn(embedder=pixels, size=8)",
        "knn(embedder=histogram)",
    ]


def test_a_nested_parameter_has_no_path_if_that_is_unambiguous() -> None:
    deep = [reranked(knn("mix", of={"name": "tower", "path": path}, weight=0.5)) for path in ("a/x", "b/x")]
    assert short_labels(deep) == ["reranked(knn)(path=a/x)", "reranked(knn)(path=b/x)"]
    twice = [reranked(knn("pixels", size=size), size=wide) for size, wide in ((16, 1), (8, 1), (8, 2))]
    assert short_labels(twice) == [
        "reranked(knn)(embedder.size=16, size=1)",
        "reranked(knn)(embedder.size=8, size=1)",
        "reranked(knn)(embedder.size=8, size=2)",
    ]


def test_no_two_arms_share_a_label_whatever_they_are_made_of() -> None:
    inner = [{"name": name, "size": size} for name in ("pixels", "histogram") for size in (8, 8.0000001, 16)]
    inner += [{"name": "pixels"}, {"name": "mix", "of": {"name": "pixels", "size": 8}}, {"name": "mix", "size": None}]
    nodes = [
        {"name": "knn", "embedder": embedder, "by": by}
        for embedder in inner
        for by in ("image", "x" * 80, "x" * 80 + "y")
    ]
    nodes += [reranked(node) for node in nodes] + [{"name": "knn"}, {"name": "other.py:knn"}]
    for i in range(1, len(nodes)):
        chosen = nodes[:: max(1, len(nodes) // (i % 7 + 1))] + nodes[:i]
        distinct = {json.dumps(node, sort_keys=True): node for node in chosen}
        labels = short_labels(list(distinct.values()))
        assert len({*labels}) == len(distinct), labels
    assert short_labels([nodes[0], nodes[1], nodes[0]])[::2] == short_labels([nodes[0], nodes[1]])[:1] * 2


def test_titles_that_clash_with_a_name_have_distinct_labels() -> None:
    labels = short_labels([{"name": "vcd", "alpha": 1}, {"name": "cad"}], [None, "vcd"])
    assert labels == ["vcd(name=vcd)", "vcd(name=cad)"]
