"""Parsing of the strategy of a request: registered names with parameters, and no code or file of a client."""

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.server.request_parsing import check_strategy_model, parse_request, parse_strategy, with_strategy_of_model
from icl.errors import ConfigError, PlanError


def body(strategy: Any, xargs: Any = None, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Which color?"}]
    return {"messages": messages, "vllm_xargs": {"strategy": strategy, **(xargs or {})}, **more}


@pytest.mark.parametrize(
    ("request_body", "node"),
    [
        (body("vcd"), "vcd"),
        (body("vcd", {"alpha": 0.25}), {"name": "vcd", "alpha": 0.25}),
        (body(' {"name": "mask_only", "of": {"name": "vcd", "alpha": 0.25}}'),
         {"name": "mask_only", "of": {"name": "vcd", "alpha": 0.25}}),
        (body({"name": "vcd", "alpha": 0.25}, {"alpha": 0.5}), {"name": "vcd", "alpha": 0.5}),
        (body("vcd", temperature=0), "vcd"),
        (body("vcd", temperature=None, top_p=None), "vcd"),
        (body("vcd", top_p=1.0, top_k=-1, min_p=0.0), "vcd"),
        (body("vcd", temperature=0, top_p=0.5), "vcd"),
        (body("vcd", temperature=0.5, top_p=0.9, top_k=7, min_p=0.1),
         {"name": "vcd", "sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1}}),
        (body("vcd", temperature=0.5, top_k=-1), {"name": "vcd", "sampling": {"temperature": 0.5}}),
        (body("vcd", temperature=0.5, top_k=0), {"name": "vcd", "sampling": {"temperature": 0.5}}),
        (body("vcd", {"sampling": {"temperature": 0.3}}), {"name": "vcd", "sampling": {"temperature": 0.3}}),
        (body("vcd", {"sampling": {"temperature": 0.3}}, temperature=0),
         {"name": "vcd", "sampling": {"temperature": 0.3}}),
        (body("icd", {"disturbance": "Be unsure: guess."}), {"name": "icd", "disturbance": "Be unsure: guess."}),
    ],
)  # fmt: skip
def test_a_named_strategy_is_the_arm_of_a_config(request_body: dict[str, Any], node: Any) -> None:
    arm, own = parse_strategy(request_body), parse_arm(node)
    assert (arm.strategy, arm.sampler, arm.label) == (own.strategy, own.sampler, own.label)


@pytest.mark.parametrize(
    ("request_body", "sentence"),
    [
        (body("vdc"), "vllm_xargs: no strategy named 'vdc'"),
        (body('{"name": "vcd"'), "vllm_xargs.strategy is not JSON: Expecting"),
        (body(5), "vllm_xargs.strategy must be a name, or the JSON string of a mapping with a name."),
        (body([]), "vllm_xargs.strategy must be a name, or the JSON string of a mapping with a name."),
        (body("os:system"), "vllm_xargs: 'os:system' is not the name of a strategy (icl ls strategies)."),
        (body("a/b"), "vllm_xargs: 'a/b' is not the name of a strategy (icl ls strategies)."),
        (body({"name": 5}), "vllm_xargs: 5 is not the name of a strategy (icl ls strategies)."),
        (body({"name": "mask_only", "of": "os:system"}), "vllm_xargs: 'os:system' is not the name of a strategy"),
        (body({"name": "mask_only", "of": {"name": "/x.py"}}), "vllm_xargs: '/x.py' is not the name of a strategy"),
        (body({"name": "contrast", "branches": [{"function": "os:system"}]}), "vllm_xargs: 'os:system' is not the"),
        (body({"name": "contrast", "branches": ["my file.py:f"]}), "vllm_xargs: 'my file.py:f' is not the name"),
        (body("vcd", {"of": " os :system"}), "vllm_xargs: ' os :system' is not the name of a strategy"),
        (body("vcd", {"alpha": float("nan")}), "vllm_xargs: nan is not a finite number."),
        (body("contrast", {"weights": [1.0, float("inf")]}), "vllm_xargs: inf is not a finite number."),
        (body("vcd", temperature=float("inf")), "vllm_xargs: inf is not a finite number."),
        (body("vcd", {"sampling": {}}, temperature=0.5),
         "temperature and vllm_xargs.sampling both set the sampling. Remove one of them."),
        (body("vcd", temperature="hot"), "temperature is a number, not 'hot'."),
        (body("vcd", temperature=[]), "temperature is a number, not []."),
        (body("vcd", top_p=True), "top_p is a number, not True."),
        (body("icd", {"disturbance": "\ud800"}), "vllm_xargs: a string contains an unpaired surrogate, which "
        "cannot be encoded."),
        (body('{"name": "mask_only", "of": ' * 3000 + '"vcd"' + "}" * 3000),
         "vllm_xargs: the strategy is nested too deeply."),
    ],
)  # fmt: skip
def test_an_invalid_strategy_is_an_error_with_a_message(request_body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_strategy(request_body)
    assert str(error.value).startswith(sentence)


def test_no_file_of_the_server_is_read_for_a_client(tmp_path: Path) -> None:
    """The error reveals neither whether the file exists nor what it contains."""
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"format": "a secret", "strategy": "moicl", "parameters": {}}))
    messages = set()
    for name in (str(path), str(tmp_path / "none.json")):
        for node in ({"name": "moicl", "fitted": name}, {"name": "mask_only", "of": {"name": "moicl", "fitted": name}}):
            with pytest.raises(ConfigError) as error:
                parse_strategy(body(node))
            messages.add(str(error.value))
    assert messages == {"vllm_xargs: fitted is the path of a file. Send the parameters in that file instead."}


@pytest.mark.parametrize(
    ("strategy", "icl", "sentence"),
    [
        ("dola", None, "needs hidden states, which this model cannot give"),
        ("dola", {"options": ["a"]}, "needs hidden states, which this model cannot give"),
        ("pmi", None, "scores options and cannot generate text"),
        ("pmi", {"options": ["a"]}, "needs whole options scored by each branch"),
        ("beam", None, "needs rows that beams can take over"),
        ('{"name": "vcd", "sampling": {"beams": 2}}', None, "needs rows that beams can take over"),
        ("self_consistency", None, "self_consistency chooses among 2 answers, but a request generates one of them."),
    ],
)
def test_a_strategy_that_the_engine_cannot_run_is_refused_before_it_gets_there(
    strategy: str, icl: Any, sentence: str
) -> None:
    with pytest.raises(PlanError) as error:
        parse_request(body(strategy, icl=icl))
    assert sentence in str(error.value)


def test_the_check_depends_on_the_requested_answer() -> None:
    """In an engine, `dcd` can generate texts but cannot score options."""
    assert parse_request(body("dcd", icl={"trace": True})).extended is not None
    with pytest.raises(PlanError, match="needs whole options"):
        parse_request(body("dcd", icl={"options": ["a"]}))


def test_a_client_that_counts_votes_may_ask_for_each_answer() -> None:
    assert parse_request(body("self_consistency", icl={"trace": True})).arm.strategy.traits.num_samples == 2


MODELS = {"tiny-vcd": {"name": "vcd", "alpha": 0.5}, "tiny-greedy": "greedy"}


@pytest.mark.parametrize("body", [None, [], {"model": "tiny"}, {"model": 3}, {"vllm_xargs": {"strategy": "vcd"}}])
def test_requests_for_other_models_stay_as_they_are(body: Any) -> None:
    assert with_strategy_of_model(body, MODELS) is body


def test_a_request_for_such_a_model_has_its_strategy_with_its_parameters() -> None:
    expanded = with_strategy_of_model({"model": "tiny-vcd", "temperature": 0}, MODELS)
    assert expanded["model"] == "tiny-vcd"
    assert (
        parse_strategy(expanded).strategy == parse_strategy({"vllm_xargs": {"strategy": "vcd", "alpha": 0.5}}).strategy
    )
    assert parse_strategy(with_strategy_of_model({"model": "tiny-greedy"}, MODELS)).label == "greedy"


def test_a_request_may_change_a_parameter_and_not_the_strategy() -> None:
    arm = parse_strategy(with_strategy_of_model({"model": "tiny-vcd", "vllm_xargs": {"beta": 0.3}}, MODELS))
    assert (arm.strategy.alpha, arm.strategy.beta) == (0.5, 0.3)  # type: ignore[attr-defined]  # vcd's parameters
    with pytest.raises(ConfigError, match=r"the model 'tiny-vcd' has a strategy\. Remove vllm_xargs.strategy"):
        with_strategy_of_model({"model": "tiny-vcd", "vllm_xargs": {"strategy": "cad"}}, MODELS)


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
