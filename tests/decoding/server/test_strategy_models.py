"""Model names that stand for a strategy: bodies of requests, and nodes that the command refuses."""

from typing import Any

import pytest

from decoding.server.strategy_models import StrategyModels, check_strategy_model
from decoding.server.strategy_parsing import parse_strategy
from icl.errors import ConfigError

MODELS = StrategyModels({"tiny-vcd": {"name": "vcd", "alpha": 0.5}, "tiny-greedy": "greedy"})


@pytest.mark.parametrize("body", [None, [], {"model": "tiny"}, {"model": 3}, {"vllm_xargs": {"strategy": "vcd"}}])
def test_requests_for_other_models_stay_as_they_are(body: Any) -> None:
    assert MODELS.expand(body) is body


def test_a_request_for_such_a_model_has_its_strategy_with_its_parameters() -> None:
    expanded = MODELS.expand({"model": "tiny-vcd", "temperature": 0})
    assert expanded["model"] == "tiny-vcd"
    assert (
        parse_strategy(expanded).strategy == parse_strategy({"vllm_xargs": {"strategy": "vcd", "alpha": 0.5}}).strategy
    )
    assert parse_strategy(MODELS.expand({"model": "tiny-greedy"})).label == "greedy"


def test_a_request_may_change_a_parameter_and_not_the_strategy() -> None:
    arm = parse_strategy(MODELS.expand({"model": "tiny-vcd", "vllm_xargs": {"beta": 0.3}}))
    assert (arm.strategy.alpha, arm.strategy.beta) == (0.5, 0.3)  # type: ignore[attr-defined]  # vcd's parameters
    with pytest.raises(ConfigError, match=r"the model 'tiny-vcd' has a strategy\. Remove vllm_xargs.strategy"):
        MODELS.expand({"model": "tiny-vcd", "vllm_xargs": {"strategy": "cad"}})


@pytest.mark.parametrize(
    ("name", "node", "message"),
    [
        ("", "vcd", "write NAME=STRATEGY"),
        ("a", "vdc", "--as a: .*no strategy named 'vdc'"),
        ("a", {"name": "vcd", "gamma": 1}, "--as a: .*has no parameter 'gamma'"),
        ("a", "mine.py:Mine", "--as a: .*is not the name of a strategy"),
        ("a", {"name": "vcd", "fitted": "x.json"}, "--as a: .*fitted is the path of a file"),
        ("a", {"name": "self_consistency", "of": "greedy"}, "--as a: "),
        *[("a", node, "^--as: write NAME=STRATEGY, such as a=vcd") for node in (None, 3, True, ["vcd"], "", "{x")],
        *[(name, "vcd", "^--as: write NAME=STRATEGY.*cannot be a name") for name in ("-a", "a b", "a\n", "--port")],
    ],
)
def test_strategies_that_the_server_cannot_run_are_refused_before_it_starts(name: str, node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_strategy_model(name, node)
