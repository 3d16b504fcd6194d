"""Lists of demonstrations that another program wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icl.component_json import describe
from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import EXCLUDE_LEAKS, Resources
from retrievers.machinery.conformance import check_retriever, sample_pool, sample_queries

Make = Callable[..., Any]


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    return Pool(tuple(example(f"demo-{i}", color("red", i)) for i in range(5)))


def _file(folder: Path, content: Any, name: str = "lists.json") -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def _retrieve(path: str, pool: Pool, query: Any, k: int) -> Any:
    return build("retriever", {"name": "external", "path": path}).fit(pool, Resources()).retrieve([query.query], k)[0]


def test_the_file_decides_order_and_scores(pool: Pool, example: Make, color: Make, tmp_path: Path) -> None:
    query = example("q", color("blue"))
    listed = [["demo-3", 0.9], ["demo-1", 0.95], ["demo-0", 0.1]]
    for path in (
        _file(tmp_path, {"q": listed}),
        _file(tmp_path, json.dumps({"query": "q", "demos": listed}) + "\n\n", "lists.jsonl"),
    ):
        assert [(one.id, one.score) for one in _retrieve(path, pool, query, 2)] == [("demo-3", 0.9), ("demo-1", 0.95)]


def test_a_listed_leak_is_skipped(pool: Pool, example: Make, color: Make, tmp_path: Path) -> None:
    path = _file(tmp_path, {"q": ["demo-2", "demo-3", "demo-4"], "demo-4": ["demo-4", "demo-1"]})
    assert [one.id for one in _retrieve(path, pool, example("q", color("red", 2)), 2)] == ["demo-3", "demo-4"]
    assert [one.id for one in _retrieve(path, pool, pool.examples[4], 1)] == ["demo-1"]


def test_retriever_conformance(tmp_path: Path) -> None:
    pool = sample_pool()
    lists = {q.id: [e.id for e in pool.examples][::-1] for q in sample_queries()}
    node = {"name": "external", "path": _file(tmp_path, lists)}
    check_retriever(build("retriever", node))
    oracle = build("retriever", {**node, "reads_gold": True})  # whose samples the contexts mark
    check_retriever(oracle)
    assert (oracle.needs, build("retriever", node).needs) == ({"gold"}, frozenset())
    assert sum(map(EXCLUDE_LEAKS.allowed_for(sample_queries()[0]), pool.examples)) < len(pool)


@pytest.mark.parametrize(
    "case",
    [
        ({"p": ["demo-1"]}, r"has no entry for query 'q'. Did you mean 'p'|has no entry for query 'q'. It has 1"),
        ({"q": ["demo-11"]}, r"query 'q' lists 'demo-11', which is not in the pool. Did you mean 'demo-1'"),
        ({"q": ["demo-1", "demo-1"]}, "lists a demonstration twice"),
        ({"q": "demo-1"}, "instead of a list of IDs"),
        ({"q": [["demo-1", "near"]]}, "an entry is an id, or a list of an id and a score"),
        ("[1, 2]", "is not a list of demonstrations"),
        ("{", "is not a list of demonstrations"),
    ],
)
def test_a_wrong_file_is_an_error(case: Any, pool: Pool, example: Make, color: Make, tmp_path: Path) -> None:
    content, says = case
    with pytest.raises(DataError, match=says):
        _retrieve(_file(tmp_path, content), pool, example("q", color("blue")), 1)


def test_a_list_that_is_too_short_says_how_long(pool: Pool, example: Make, color: Make, tmp_path: Path) -> None:
    path = _file(tmp_path, {"q": ["demo-1", "demo-2"]})
    with pytest.raises(PlanError, match=r"3 demonstrations for query 'q', and 2 of 2 listed may be shown"):
        _retrieve(path, pool, example("q", color("blue")), 3)
    with pytest.raises(DataError, match="cannot be read"):
        _retrieve(str(tmp_path / "none.json"), pool, example("q", color("blue")), 1)


def test_edited_lists_are_another_component_and_a_change_in_a_run_is_an_error(
    pool: Pool, example: Make, color: Make, tmp_path: Path
) -> None:
    node = {"name": "external", "path": _file(tmp_path, {"q": ["demo-3"]})}
    before = build("retriever", node)
    _file(tmp_path, {"q": ["demo-1"]})
    assert describe(build("retriever", node)) != describe(before)
    with pytest.raises(ConfigError, match=r"lists\.json has changed: its digest is"):
        before.fit(pool, Resources())
