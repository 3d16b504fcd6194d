from collections.abc import Callable
from typing import Any

from experiments.config.config import load_config
from experiments.config.keys import StopSpec
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.stopping.forecast import drift, forecast_walk

TIMES = tuple(k / 20 for k in range(1, 21))


def test_the_plan_says_when_it_looks_and_what_it_expects(mapping: Callable[..., dict[str, Any]]) -> None:
    config = mapping(grid={"shots": [0, 2, 4]}, compare={"to": {"shots": 0}}, stop="when_decided")
    config["task"] = {**config["task"], "queries": 80}
    del config["shots"]
    text = "\n".join(format_plan(make_plan(expand(load_config(config)))))
    assert "2 comparisons, a look after each of 4 groups in random order, at most 5 % chance of a false verdict" in text
    assert "expected share of queries if one in five differs (assumed): no difference" in text
    assert "whenever you stop" not in "\n".join(format_plan(make_plan(expand(load_config({**config, "stop": None})))))


def test_the_forecast_is_close_to_the_exact_walk() -> None:
    """The exact figures are those of single pairs, 3,000 queries, psi .1 (docs/simulation.md)."""
    exact = {(2.8, 1): (0.68, 0.76), (5.0, 8): (0.50, 0.98), (8.0, 1): (0.21, 1.0), (0.0, 8): (0.52, 0.005)}
    for (theta, family), (share, power) in exact.items():
        forecast = forecast_walk(theta, TIMES, family, StopSpec())
        assert abs(forecast.share - share) < 0.03
        assert abs(forecast.power - power) < 0.03
        assert forecast.power <= forecast.fixed_power + 0.03
    assert round(drift(0.03, 3000, 0.1), 1) == 5.2


def test_a_rule_without_futility_costs_a_null_comparison_all_queries() -> None:
    assert forecast_walk(0.0, TIMES, 1, StopSpec(futility=None)).share > 0.96
