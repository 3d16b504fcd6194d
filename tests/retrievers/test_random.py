"""Random and balanced demonstrations."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from icl.errors import PlanError
from icl.tasks.base import Pool
from icl.types import Query
from retrievers.base import Resources
from retrievers.baselines import NoDemos, RandomRetriever
from retrievers.by_label import Balanced, Stratified

Make = Callable[..., Any]


def _pool(example: Make, size: int, labels: int = 1, use_label: bool = True) -> Pool:
    names = [f"label-{i % labels}" for i in range(size)]
    more = [{"label": name} if use_label else {} for name in names]
    return Pool(tuple(example(f"e{i}", None, names[i], **more[i]) for i in range(size)))


def _ids(retriever: Any, pool: Pool, query: str, k: int, seed: int = 0) -> list[str]:
    (demos,) = retriever.fit(pool, Resources(seed=seed)).retrieve([Query(query, (), "?")], k)
    return [one.id for one in demos]


@pytest.mark.parametrize("size", [50, 5000])
@pytest.mark.parametrize("retriever", [RandomRetriever(), Balanced()])
def test_fewer_shots_begin_more_shots(example: Make, retriever: Any, size: int) -> None:
    pool = _pool(example, size, 4)
    assert retriever.nested
    whole = _ids(retriever, pool, "q", size)
    assert sorted(whole) == sorted(pool.by_id)
    for k in (0, 1, 2, 4, 33):
        assert _ids(retriever, pool, "q", k) == whole[:k]


@pytest.mark.parametrize("retriever", [RandomRetriever(), Balanced()])
def test_seeds_and_queries_draw_differently(example: Make, retriever: Any) -> None:
    pool = _pool(example, 200, 2)
    random_order = {tuple(_ids(retriever, pool, query, 8, seed)) for query in ("a", "b", "c") for seed in (0, 1, 2)}
    assert len(random_order) == 9


@pytest.mark.parametrize("size", [40, 3000])
def test_random_is_uniform_over_the_pool(example: Make, size: int) -> None:
    fitted = RandomRetriever().fit(_pool(example, size), Resources())
    results = fitted.retrieve([Query(f"q{i}", (), "?") for i in range(3000)], 4)
    tenths = Counter(int(one.id[1:]) * 10 // size for demos in results for one in demos)
    assert all(abs(tenths[i] - 1200) < 170 for i in range(10)), tenths  # five standard deviations


@pytest.mark.parametrize("use_label", [True, False])
def test_every_prefix_of_balanced_is_balanced_within_one(example: Make, use_label: bool) -> None:
    pool = _pool(example, 60, 3, use_label)
    whole = _ids(Balanced(), pool, "q", 30)
    for k in range(1, 31):
        counts = Counter(pool.by_id[i].answer for i in whole[:k])
        assert max(counts.values()) - min(counts.get(f"label-{n}", 0) for n in range(3)) <= 1


def test_balanced_does_not_always_begin_with_one_label(example: Make) -> None:
    pool = _pool(example, 60, 3)
    firsts = Counter(pool.by_id[_ids(Balanced(), pool, f"q{i}", 1)[0]].answer for i in range(90))
    assert min(firsts[f"label-{n}"] for n in range(3)) > 12


def test_a_label_without_members_left_is_skipped(example: Make) -> None:
    rare = example("rare", None, "no", label="no")
    pool = Pool((rare, *(example(f"e{i}", None, "yes", label="yes") for i in range(5))))
    ids = _ids(Balanced(), pool, "q", 6)
    assert sorted(ids) == sorted(pool.by_id)
    assert "rare" in ids[:2]


def test_balanced_needs_two_labels(example: Make) -> None:
    with pytest.raises(PlanError, match="all 5 examples have 'label-0'"):
        Balanced().fit(_pool(example, 5), Resources())


@pytest.mark.parametrize("retriever", [RandomRetriever(), Balanced()])
def test_too_many_shots_name_the_counts(example: Make, retriever: Any) -> None:
    with pytest.raises(PlanError, match=r"from a pool of 10: 9 are left after .* the query itself and 0 with"):
        _ids(retriever, _pool(example, 10, 2), "e3", 10)
    with pytest.raises(PlanError, match="query 'q' from a pool of 10: 10 are left after taking out 0"):
        _ids(retriever, _pool(example, 10, 2), "q", 12)


def test_none_gives_none_at_any_number_of_shots(example: Make) -> None:
    assert _ids(NoDemos(), _pool(example, 3), "q", 8) == []


def test_draws_are_pinned(example: Make) -> None:
    """If these change, icl.streams.DRAWS must change."""
    pool = _pool(example, 50, 4)
    assert _ids(RandomRetriever(), pool, "q", 5, seed=1) == ["e35", "e30", "e25", "e17", "e43"]
    assert _ids(Balanced(), pool, "q", 5, seed=1) == ["e29", "e36", "e38", "e7", "e25"]


@pytest.mark.parametrize("retriever", [RandomRetriever(), Balanced(), Stratified()])
def test_a_new_row_changes_a_query_only_if_it_is_drawn(example: Make, retriever: Any) -> None:
    """A pool of 4 labels and 40 members; the new member has its own id and stands anywhere in the file."""
    before = _pool(example, 40, 4)
    new = example("a new row", None, "label-1", label="label-1")
    changed = 0
    for place in (0, 17, 40):
        rows = list(before.examples)
        rows.insert(place, new)
        after = Pool(tuple(rows))
        for query in (f"q{i}" for i in range(60)):
            old, now = _ids(retriever, before, query, 8), _ids(retriever, after, query, 8)
            assert old == now if new.id not in now else set(now) - {new.id} < set(old)
            changed += old != now
    assert 18 <= changed <= 60  # 8 of 41, in expectation 35


@pytest.mark.parametrize("retriever", [RandomRetriever(), Balanced(), Stratified()])
def test_the_order_of_rows_does_not_matter(example: Make, retriever: Any) -> None:
    pool = _pool(example, 40, 4)
    reversed_pool = Pool(pool.examples[::-1])
    for query in ("a", "b", "c"):
        assert _ids(retriever, pool, query, 6) == _ids(retriever, reversed_pool, query, 6)
