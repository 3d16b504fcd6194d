import numpy as np
import pandas as pd
import pytest

from experiments.stats.variance_components import variance_components
from icl.errors import DataError


def simulated(item, draw, order=None, *, n=3000, seeds=3, orders=4):
    made, rows = np.random.default_rng(0), []
    for query in range(n):
        of_item = made.normal(0, item**0.5)
        for seed in range(seeds):
            of_draw = of_item + made.normal(0, draw**0.5)
            for o in range(orders if order is not None else 1):
                score = of_draw + (made.normal(0, order**0.5) if order is not None else 0)
                rows.append({"query": query, "seed": seed, "order": f"o{o}", "lenient": score})
    return pd.DataFrame(rows)


def test_item_and_draw_are_recovered():
    components = variance_components(simulated(0.5, 0.2), "lenient")
    assert (components.item, components.draw) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.2, abs=0.02))
    assert components.order is None
    assert components.shares["item"] == pytest.approx(5 / 7, abs=0.03)


def test_order_is_separated_from_the_draw():
    components = variance_components(simulated(0.4, 0.1, 0.3), "lenient")
    assert components.item == pytest.approx(0.4, abs=0.03)
    assert components.draw == pytest.approx(0.1, abs=0.02)
    assert components.order == pytest.approx(0.3, abs=0.02)


def test_by_hand_for_two_items_under_two_seeds():
    frame = pd.DataFrame({"query": list("aabb"), "seed": [0, 1, 0, 1], "lenient": [1, 1, 0, 1]})
    components = variance_components(frame, "lenient")
    assert components.draw == pytest.approx((0 + 0.5) / 2)
    assert components.item == pytest.approx(max(0, (2 * 0.125 - 0.25) / 2))


def test_answers_independent_of_the_draw_have_item_variance_only():
    frame = simulated(1.0, 0.0, n=50)
    assert variance_components(frame, "lenient").shares == {"item": pytest.approx(1.0), "draw": pytest.approx(0.0)}


def test_an_item_without_all_its_draws_is_left_out():
    frame = simulated(1.0, 1.0, n=50)
    cut = frame.drop(index=[0])
    assert variance_components(cut, "lenient") == variance_components(frame[frame["query"] > 0], "lenient")


@pytest.mark.parametrize("frame", [simulated(1, 1, n=1), simulated(1, 1, n=5, seeds=1)])
def test_one_item_or_one_draw_has_no_split(frame):
    with pytest.raises(DataError, match="two queries and two seeds"):
        variance_components(frame, "lenient")


def test_a_frame_of_several_arms_is_refused():
    frame = simulated(1, 1, n=5)
    with pytest.raises(DataError, match="split the frame by arm"):
        variance_components(pd.concat([frame, frame]), "lenient")


def test_draws_that_vary_less_than_their_orders_have_zero_variance():
    rows = [
        {"query": query, "seed": seed, "order": order, "lenient": float(order == "b")}
        for query in ("q0", "q1")
        for seed in (0, 1)
        for order in ("a", "b")
    ]
    components = variance_components(pd.DataFrame(rows), "lenient")
    assert (components.item, components.draw, components.order) == (0, 0, 0.5)
