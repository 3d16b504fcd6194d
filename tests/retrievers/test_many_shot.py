"""Common demonstrations for all queries, with a few similar ones behind them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.contexts.contexts import arrange
from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.base import EXCLUDE_LEAKS, Resources
from retrievers.machinery.conformance import sample_pool, sample_queries
from retrievers.many_shot import k_means

Make = Callable[..., Any]
KNN = {"name": "knn", "embedder": "histogram"}


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    """Each color eight times."""
    return Pool(
        tuple(
            example(f"{name}-{i}", color(name, i), name, label=name)
            for name in ("red", "lime", "blue")
            for i in range(8)
        )
    )


@pytest.fixture
def queries(color: Make, example: Make) -> list[Example]:
    return [example(f"query {name}", color(name, 99), name, label=name) for name in ("red", "lime", "blue")]


def retrieved(pool: Pool, queries: list[Example], k: int, **node: Any) -> list[tuple[Any, ...]]:
    fitted = build("retriever", {"of": KNN, **node, "name": "hybrid"}).fit(pool, Resources())
    return [tuple(demos) for demos in fitted.retrieve([query.query for query in queries], k)]


def ids(demos: tuple[Any, ...]) -> list[str]:
    return [demo.id for demo in demos]


@pytest.mark.parametrize("common", ["random", "balanced", {"name": "k_means", "embedder": "histogram"}])
def test_prompts_begin_with_common_demonstrations_and_end_with_the_nearest(
    common: Any, pool: Pool, queries: list[Example]
) -> None:
    nearest = build("retriever", KNN).fit(pool, Resources()).retrieve([query.query for query in queries], 12)
    prompts = []
    for query, ranking, near in zip(queries, retrieved(pool, queries, 8, common=common), nearest, strict=True):
        demos = arrange(query, ranking, pool, 0, order=build("orderer", "reversed")).demos
        prompts.append([demo.example.id for demo in demos])
        free = [demo.id for demo in near if demo.id not in prompts[-1][:6]]
        assert prompts[-1][6:] == free[:2][::-1], "the nearest that are not common, the nearest last"
    assert prompts[0][:6] == prompts[1][:6] == prompts[2][:6]
    assert len({tuple(prompt[6:]) for prompt in prompts}) == 3


def test_controls_show_one_part_of_the_same_demonstrations(pool: Pool, queries: list[Example]) -> None:
    both, similar, common = (retrieved(pool, queries, 8, part=part) for part in ("both", "similar", "common"))
    assert [ids(one) + ids(other) for one, other in zip(similar, common, strict=True)] == [*map(ids, both)]
    assert {len(demos) for demos in similar} == {2}


def test_few_shots_are_all_similar(pool: Pool, queries: list[Example]) -> None:
    alone = build("retriever", KNN).fit(pool, Resources()).retrieve([query.query for query in queries], 2)
    assert [*map(ids, retrieved(pool, queries, 2, similar=2))] == [*map(ids, alone)]
    assert retrieved(pool, queries, 0) == [(), (), ()]


def test_a_common_demonstration_that_would_leak_is_replaced_and_marked(pool: Pool, queries: list[Example]) -> None:
    (plain,) = retrieved(pool, queries[:1], 8)
    itself = pool.by_id[plain[-1].id]
    (demos,) = retrieved(pool, [itself], 8)
    assert itself.id not in ids(demos)
    assert len(demos) == 8
    assert demos[-1].mark == "hybrid: 1 of the common ones would leak"
    assert ids(demos)[3:] == ids(plain)[2:-1], "the other common ones keep their places"


def test_settings_that_cannot_be_are_refused_with_a_sentence(pool: Pool, queries: list[Example]) -> None:
    for common in (KNN, "bm25", {"name": "external", "path": "lists.json"}):
        with pytest.raises(ConfigError, match="reads the query, and all queries share the common ones"):
            build("retriever", {"name": "hybrid", "of": "random", "common": common})
    with pytest.raises(PlanError, match="30 demonstrations for query 'query red' from a pool of 24: 24 are left"):
        retrieved(pool, queries, 30)
    with pytest.raises(PlanError, match=r"22 common demonstrations cannot be chosen: .*22 shots, and the set has 1"):
        retrieved(pool, queries, 24, common={"name": "fixed", "ids": ["red-1"]})


def test_k_means_finds_separate_clusters_large_ones_first() -> None:
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0], [9, 0], [0, 9]])
    rows = np.concatenate([mean + rng.normal(0, 0.1, (n, 2)) for mean, n in zip(means, (5, 20, 10), strict=True)])
    centers = k_means(rows.astype(np.float32), 3, np.random.default_rng(1))
    assert np.allclose(centers, means[[1, 2, 0]], atol=0.2)
    assert np.allclose(centers[0], rows[5:25].astype(np.float32).mean(0), atol=1e-5)
    assert k_means(np.ones((4, 2), np.float32), 3, rng).shape == (3, 2)


def test_k_means_covers_the_colors_of_a_pool(pool: Pool, queries: list[Example]) -> None:
    node = {"name": "k_means", "embedder": "histogram"}
    sets = build("retriever", node).fit(pool, Resources()).retrieve([query.query for query in queries], 3)
    assert {pool.by_id[id_].label for id_ in ids(sets[0])} == {"red", "lime", "blue"}
    assert ids(sets[0]) == ids(sets[1]) == ids(sets[2])


def test_the_order_reversed_writes_the_common_part_as_its_retriever_ranks_it() -> None:
    pool, query = sample_pool(), sample_queries()[0]
    ids = [member.id for member in pool.examples if EXCLUDE_LEAKS.allowed_for(query)(member)][:3]
    node = {"name": "hybrid", "of": "random", "similar": 1, "part": "common", "common": {"name": "fixed", "ids": ids}}
    (demos,) = build("retriever", node).fit(pool, Resources()).retrieve([query], 4)
    assert [demo.id for demo in demos][::-1] == ids
