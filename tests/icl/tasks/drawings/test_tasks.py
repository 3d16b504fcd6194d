"""The tasks on drawings: what is asked, what queries and pools share, and names that contradict knowledge."""

import pytest

from experiments.analyses import leakage
from icl.errors import ConfigError, DataError
from icl.registry import build
from icl.tasks.drawings.table import DrawingRecord, is_for_queries, is_held_out
from icl.testing import check_task

pytest.importorskip("resvg_py", reason="renders the SVGs of the test")


def task(name, folder, **more):
    return build("task", {"name": name, "folder": str(folder), **more})


@pytest.mark.parametrize(
    "node",
    [
        {"name": "drawings", "queries": 4},
        {"name": "drawings", "answer": "category", "queries": 4},
        {"name": "drawings", "answer": "title", "split": "author", "queries": 4},
        {"name": "drawings-binding", "nouns": "all", "queries": 4},
        {"name": "drawings-binding", "nouns": "all", "names": "swapped", "ways": 3, "queries": 4},
        {"name": "drawings-odd-one-out", "images": 3, "queries": 4, "pool_size": 6},
    ],
    ids=str,
)
def test_tasks_pass_the_check(folder, node) -> None:
    check_task(build("task", {**node, "folder": str(folder)}))


def test_a_split_by_author_leaves_no_author_on_both_sides(folder) -> None:
    def sources(**more):
        one = task("drawings", folder, queries=None, **more)
        pool = {example.meta["source"] for example in one.pool(one.queries[0].id).examples}
        return {query.meta["source"] for query in one.queries}, pool

    queries, pool = sources()
    assert queries & pool
    by_author = [sources(split="author", seed=seed) for seed in (0, 1, 2)]
    assert all(queries and pool and not queries & pool for queries, pool in by_author)


def test_options_hold_the_answer_once_and_other_nouns_of_the_pool(folder) -> None:
    one = task("drawings", folder, options=3, queries=None)
    names = {example.answer for example in one.pool(one.queries[0].id).examples}
    for query in one.queries:
        assert len(set(query.options)) == 3
        assert {query.answer} <= set(query.options) <= names
    places = {query.options.index(query.answer) for query in one.queries}
    assert len(places) > 1, "the place of the answer is random"


def test_swapped_names_are_never_the_nouns_own_and_made_up_ones_are_no_nouns(folder) -> None:
    nouns = set(task("drawings-binding", folder, nouns="all").by_noun)
    for names in ("swapped", "made_up", "real"):
        one = task("drawings-binding", folder, nouns="all", names=names, ways=3, queries=20)
        for query in one.queries:
            pool = one.pool(query.id).examples
            pairs = {(example.secret["noun"], example.answer) for example in (*pool, query)}
            assert len(pairs) == 3, "one name a noun"
            if names == "swapped":
                assert all(noun != name and name in nouns for noun, name in pairs)
            else:
                assert {name in nouns for _, name in pairs} == {names == "real"}
            assert query.images[0].digest not in {example.images[0].digest for example in pool}


def test_the_pool_of_other_authors_has_none_of_the_querys(folder) -> None:
    one = task("drawings-binding", folder, nouns="all", other_authors=True, support=2, queries=12)
    for query in one.queries:
        assert query.meta["source"] not in {example.meta["source"] for example in one.pool(query.id).examples}


def test_the_odd_drawing_is_of_another_category(folder) -> None:
    one = task("drawings-odd-one-out", folder, images=3, queries=10, pool_size=5)
    for query in one.queries:
        assert query.secret["common"] != query.secret["odd"]
        assert len(query.images) == 3
        assert query.options == ("1", "2", "3")


def test_bad_input_is_a_sentence(folder, tmp_path) -> None:
    with pytest.raises(DataError, match=r"not installed.*icl data drawings"):
        len(task("drawings", tmp_path / "nowhere").queries)
    with pytest.raises(ConfigError, match=r"no drawings of the style 'tuxpain'. Did you mean 'tuxpaint'"):
        len(task("drawings", folder, styles=["tuxpain"]).queries)
    with pytest.raises(ConfigError, match="options: 40 is more than the 6 nouns"):
        len(task("drawings", folder, options=40).queries)
    with pytest.raises(DataError, match="0 nouns have 40 drawings"):
        len(task("drawings-binding", folder, nouns="all", support=39).queries)
    (tmp_path / "drawings.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"drawings.jsonl is damaged"):
        len(task("drawings", tmp_path).queries)


def test_the_leakage_audit_counts_demonstrations_by_the_querys_author() -> None:
    demo = {"query": "q", "demos": [("a", 1.0, "x"), ("b", 0.5, "y")], "images": [], "image_of": []}
    by = {"source": "Ann", "demo_sources": ["Bob", "Ann"]}
    assert leakage._leak_flags({**demo, "meta": by})["source"]
    assert not leakage._leak_flags({**demo, "meta": {**by, "source": "Cleo"}})["source"]
    assert not leakage._leak_flags({**demo, "meta": {}})["source"]


def test_one_noun_in_sixteen_is_held_out_and_one_drawing_in_four_is_a_query() -> None:
    names = [f"name {number}" for number in range(8000)]
    held_out = sum(map(is_held_out, names)) / len(names)
    assert held_out == pytest.approx(1 / 16, abs=0.01)
    drawings = [DrawingRecord(name, "", "noto", "", (), "", "", "", "") for name in names]
    queries = sum(is_for_queries(one, "drawing", 0) for one in drawings) / len(drawings)
    assert queries == pytest.approx(1 / 4, abs=0.02)
