"""Pool coverage, and the effect of a swapped demonstration."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.analyses import disruption, pool_coverage
from icl.errors import ConfigError, StoreError
from icl.tasks.base import Pool
from icl.types import Example

PARTS = Path(__file__).parent / "parts.py"


def _careless(*ids: str) -> dict[str, Any]:
    return {"name": f"{PARTS}:Careless", "ids": list(ids)}


def test_recall_is_over_the_pool_of_the_query(ran: Any) -> None:
    """Nine members, three of each color; two red ones are the demonstrations of two red and four other queries."""
    view = ran(shots=2, seeds=[0], retriever=_careless("p-0000", "p-0003"))
    (row,) = pool_coverage.analyze(view).to_dict("records")
    assert row["recall"] == pytest.approx((2 / 3 * 2) / 6)
    assert row["coverage_labels"] == pytest.approx(1 / 3)
    assert row["coverage_pool"] == pytest.approx(2 / 9)
    assert row["coverage_tokens"] == 1.0
    assert 0 <= row["diversity"] < 0.5


def test_the_query_and_its_image_do_not_count_for_recall(ran: Any) -> None:
    """The pool has the queries and a twin of the last one, whose answer no allowed member has."""
    view = ran(task={"name": f"{PARTS}:Leaking"}, model="fake-gold", shots=1, seeds=[0], retriever=_careless("q0"))
    (row,) = pool_coverage.analyze(view).to_dict("records")
    assert pd.isna(row["recall"])
    assert pd.isna(row["diversity"])


def test_labels_and_words_of_one_sample() -> None:
    def make(name: str, question: str, answer: str) -> Example:
        return Example(name, (), question, (answer,))

    members = Pool((make("a", "is it red", "yes"), make("b", "how many dots", "2"), make("c", "is it blue", "no")))
    query = make("q", "how red is it", "yes").query
    coverage = pool_coverage.pool_coverage(
        {"gold": ("yes",)}, [members.examples[0], members.examples[1]], members, query
    )
    assert coverage == {"recall": 1.0, "labels": pytest.approx(2 / 3), "tokens": 1.0}
    assert pool_coverage.pool_coverage({"gold": ("yes",)}, [members.examples[1]], members, query)["tokens"] == 0.25
    assert pd.isna(pool_coverage.pool_coverage({"gold": ("maybe",)}, [], members, query)["recall"])


def test_diversity_is_over_unordered_pairs() -> None:
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert pool_coverage.mean_pairwise_distance([one, other, one]) == pytest.approx((1 + 0 + 1) / 3)  # type: ignore[list-item]
    assert pd.isna(pool_coverage.mean_pairwise_distance([one]))  # type: ignore[list-item]


def test_a_gap_is_computed_per_query_although_the_mean_is_equal(ran: Any) -> None:
    """All demonstrations are red and the best is copied: a swap loses the red queries and gains as many others."""
    reds = _careless("p-0000", "p-0003", "p-0006")
    swaps = [{"name": "neighbor_swap", "of": reds, "position": place, "embedder": "pixels"} for place in (0, 1)]
    view = ran(model="fake-copy", shots=3, seeds=[0], grid={"retriever": [reds, *swaps]}, metric="strict")
    table = disruption.analyze(view).set_index("place")
    assert list(table.index) == ["any", "1", "2"]
    assert (table.loc["1", "gap"], table.loc["1", "net"]) == (pytest.approx(2 / 3), pytest.approx(0))
    assert table.loc["1", "changed"] == 1.0
    assert (table.loc["2", "gap"], table.loc["any", "gap"]) == (0.0, pytest.approx(1 / 3))
    assert (table.loc["any", "n"], table.loc["2", "n"]) == (12, 6)


def test_a_gap_needs_the_arm_without_a_swap(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no arm with a swapped demonstration has its arm without the swap"):
        disruption.analyze(ran(shots=2, retriever={"name": "neighbor_swap", "of": "random", "embedder": "pixels"}))


def test_a_sample_without_a_swap_has_no_gap(ran: Any) -> None:
    """All nine members are demonstrations: the swap changes nothing, so a gap of 0 would be no finding."""
    every = _careless(*(f"p-{i:04d}" for i in range(9)))
    swap = {"name": "neighbor_swap", "of": every, "embedder": "pixels"}
    view = ran(model="fake-copy", shots=9, seeds=[0], grid={"retriever": [every, swap]})
    assert any("nothing to swap for" in mark for marks in view.frame["marks"].dropna() for mark in marks)
    with pytest.raises(ConfigError, match="no arm with a swapped demonstration"):
        disruption.analyze(view)


def test_a_run_whose_config_has_another_task_or_other_queries_is_a_sentence(ran: Any) -> None:
    view = ran(shots=1, seeds=[0])
    path = view.path / "run.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"config": json.loads(whole)["config"] | {"task": "binding"}}))
    with pytest.raises(StoreError, match=r"samples are of the task 'shapes', and the config in its run\.json has bind"):
        pool_coverage.analyze(view)
    config = json.loads(whole)["config"]
    path.write_text(json.dumps(json.loads(whole) | {"config": config | {"task": config["task"] | {"queries": 3}}}))
    with pytest.raises(StoreError, match="task 'shapes' has no query 'q-0003' any more"):
        pool_coverage.analyze(view)
