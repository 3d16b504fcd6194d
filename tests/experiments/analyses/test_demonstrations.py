"""What was retrieved, and what a leak looks like."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.analyses import leakage, precision, retrieval
from icl.errors import ConfigError

PARTS = Path(__file__).parent / "parts.py"
LEAKS = ["itself", "picture", "twice", "alike", "labels", "gold"]


def _careless(*ids: str) -> dict[str, Any]:
    return {"name": f"{PARTS}:Careless", "ids": list(ids)}


def test_retrieved_answers_are_counted_by_rank(ran: Any) -> None:
    # colours of the pool go red, green, blue, red …; queries too: two of each
    view = ran(shots=4, seeds=[0], retriever=_careless("p-0001", "p-0000", "p-0003", "p-0002"))
    (told,) = retrieval.analyse(view).to_dict("records")
    assert told["precision"] == pytest.approx((2 + 1 + 1) / 3 / 4)
    assert (told["hit"], told["mrr"]) == (1.0, pytest.approx((1 / 2 + 1 + 1 / 4) / 3))
    assert (told["coverage"], told["distinct"], told["used"]) == (1.0, 0.75, 4)
    assert (told["similarity"], told["best"]) == (pytest.approx(0.85), 1.0)
    assert told["n"] == 6


def test_ranks_are_the_retriever_s_in_any_order(ran: Any) -> None:
    axes = {"order": ["reversed", "as_retrieved"]}
    view = ran(shots=2, seeds=[0], retriever=_careless("p-0001", "p-0000"), grid=axes)
    (told,) = retrieval.analyse(view).to_dict("records")
    assert told["mrr"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_precision_is_over_the_shots_asked_for(ran: Any) -> None:
    (told,) = retrieval.analyse(ran(shots=4, seeds=[0], retriever=_careless("p-0000", "p-0001"))).to_dict("records")
    assert told["precision"] == pytest.approx((1 + 1 + 0) / 3 / 4)


def test_precision_is_compared_in_pairs(ran: Any) -> None:
    """Of two red queries, two green and two blue: the reference shows red and green, the other red twice."""
    ours, theirs = (_careless(*ids) for ids in (("p-0000", "p-0003"), ("p-0000", "p-0001")))
    to = {"retriever": "Careless(ids=['p-0000', 'p-0001'])"}
    view = ran(shots=2, seeds=[0], grid={"retriever": [theirs, ours]}, compare={"to": to, "metric": "strict"})
    (told,) = precision.analyse(view).to_dict("records")
    assert (told["reference"], told["precision"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (told["difference"], told["n"]) == (pytest.approx(0), 6)
    assert told["low"] < 0 < told["high"]


def test_without_options_there_is_no_coverage(ran: Any, shapes: str) -> None:
    view = ran(task={"name": shapes, "optionless": True}, shots=2)
    assert pd.isna(retrieval.analyse(view)["coverage"][0])


def test_a_run_of_our_own_retrievers_does_not_leak(ran: Any) -> None:
    found = leakage.analyse(ran(grid={"shots": [0, 3], "transforms": [[], ["flip_labels"]]}))
    clean, flipped = found.to_dict("records")
    assert [clean[key] for key in LEAKS] == [0] * 6
    assert [flipped[key] for key in LEAKS] == [0, 0, 0, 0, 12, 0]
    assert clean["first"] == ""


def test_each_kind_of_leak_is_counted(ran: Any) -> None:
    task = {"name": f"{PARTS}:Leaking"}
    found = leakage.analyse(
        ran(
            task=task,
            model="fake-gold",
            shots=2,
            seeds=[0],
            grid={"retriever": [_careless("q0", "q1"), _careless("q3", "twin")]},
        )
    )
    counts = [[row[key] for key in (*LEAKS, "first")] for row in found.to_dict("records")]
    assert counts == [[2, 2, 0, 0, 0, 0, "q0"], [1, 1, 0, 4, 0, 0, "q3"]]


def test_an_oracle_s_order_is_seen(ran: Any) -> None:
    view = ran(shots=4, order="label_at")
    assert list(leakage.analyse(view)["gold"]) == [12]


def test_an_analysis_needs_demonstrations(ran: Any) -> None:
    with pytest.raises(ConfigError, match="Run the experiment with shots above 0"):
        leakage.analyse(ran(shots=0))
