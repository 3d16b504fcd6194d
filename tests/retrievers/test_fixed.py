"""One set for all queries, from a file or by ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icl.component_json import describe
from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import Resources

Make = Callable[..., Any]


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    return Pool(tuple(example(f"demo-{i}", color("red", i)) for i in range(5)))


def _retrieve(node: dict[str, Any], pool: Pool, query: Any, k: int) -> list[str]:
    (demos,) = build("retriever", {"name": "fixed", **node}).fit(pool, Resources()).retrieve([query.query], k)
    return [demo.id for demo in demos]


def _file(folder: Path, content: Any) -> str:
    (folder / "set.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / "set.json")


def test_every_query_gets_the_first_of_the_set(pool: Pool, example: Make, color: Make, tmp_path: Path) -> None:
    ids = ["demo-3", "demo-1", "demo-0"]
    for node in ({"ids": ids}, {"path": _file(tmp_path, {"demos": ids, "budget": 3})}):
        for name in ("q", "other"):
            assert _retrieve(node, pool, example(name, color("blue")), 3) == ids
            assert _retrieve(node, pool, example(name, color("blue")), 2) == ids[:2]


def test_another_set_in_the_file_is_another_component(tmp_path: Path) -> None:
    nodes = [describe(build("retriever", {"name": "fixed", "path": _file(tmp_path, {"demos": [one]})})) for one in "ab"]
    assert nodes[0] != nodes[1]


def test_a_query_with_an_image_of_the_set_is_refused_and_never_gets_another_set(
    pool: Pool, example: Make, color: Make
) -> None:
    with pytest.raises(PlanError, match=r"'demo-1' is query 'q', or has one of its images"):
        _retrieve({"ids": ["demo-3", "demo-1"]}, pool, example("q", color("red", 1)), 2)
    assert _retrieve({"ids": ["demo-3", "demo-1"]}, pool, example("q", color("red", 1)), 1) == ["demo-3"]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({}, "needs one set: path, a file of `icl optimize`, or ids"),
        ({"ids": ["a"], "path": "set.json"}, "needs one set"),
        ({"ids": ["a", "a"]}, "names one demonstration twice"),
        ({"ids": ["demo-9"]}, r"'demo-9' is not in the pool\. Did you mean"),
        ({"ids": ["demo-1"]}, r"2 shots, and the set has 1 demonstrations"),
        ({"path": "missing.json"}, "missing.json cannot be read"),
    ],
)
def test_a_wrong_set_is_one_sentence(
    node: dict[str, Any], sentence: str, pool: Pool, example: Make, color: Make
) -> None:
    with pytest.raises((ConfigError, DataError, PlanError), match=sentence):
        _retrieve(node, pool, example("q", color("blue")), 2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ({"q": ["a"]}, "has no list `demos` of ids"),
        ({"demos": []}, "has no list"),
        ({"demos": [["a", 0.5]]}, "has no list"),
        ({"demos": ["a", "a"]}, "lists a demonstration twice"),
    ],
)
def test_a_wrong_file_is_one_sentence(content: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        build("retriever", {"name": "fixed", "path": _file(tmp_path, content)}).preflight()
