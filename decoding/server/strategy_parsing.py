"""Parses the strategy of a chat request. A client may name registered strategies only, and neither code nor files.

A name that is a path would run the client's code here, and the key `fitted` would read a file. Strategies that an
engine cannot run are refused before they reach it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decoding import AnswerMode, Arm, parse_arm, unsupported_reason
from icl.errors import ConfigError, PlanError
from icl.models.vllm.model import VLLM

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
NO_TRUNCATION = {"top_p": 1, "top_k": 0, "min_p": 0}
"""Values that keep the whole distribution."""


def parse_strategy(body: Mapping[str, Any]) -> Arm:
    """The arm of a request with a strategy. Raises ConfigError."""
    try:
        return _parsed_arm(body)
    except RecursionError as error:
        raise ConfigError("vllm_xargs: the strategy is nested too deeply.") from error


def _parsed_arm(body: Mapping[str, Any]) -> Arm:
    parameters = dict(body["vllm_xargs"])
    strategy = parameters.pop("strategy")
    node = {"name": strategy} if isinstance(strategy, str) and not strategy.lstrip().startswith("{") else strategy
    if isinstance(node, str):
        try:
            node = json.loads(node)
        except ValueError as error:
            raise ConfigError(f"vllm_xargs.strategy is not JSON: {error}.") from error
    if not isinstance(node, dict):
        raise ConfigError("vllm_xargs.strategy must be a name, or the JSON string of a mapping with a name.")
    _check_node(node | parameters)
    sampling = {key: body[key] for key in SAMPLING if body.get(key) is not None}
    for key, value in sampling.items():
        _check_node(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{key} is a number, not {value!r:.80}.")
    if sampling.get("top_k") in (-1, 0):
        del sampling["top_k"]
    cuts = [key for key, value in sampling.items() if value != NO_TRUNCATION.get(key, value)]
    if cuts and "temperature" not in sampling:
        raise ConfigError(f"{cuts[0]} requires a temperature. Set both, or neither.")
    if sampling.get("temperature") and "sampling" in node | parameters:
        raise ConfigError("temperature and vllm_xargs.sampling both set the sampling. Remove one of them.")
    if not sampling.get("temperature", 0):
        return parse_arm(node | parameters, "vllm_xargs")
    return parse_arm(node | parameters | {"sampling": sampling}, "vllm_xargs")


def check_runs(arm: Arm, answer_mode: AnswerMode, counts_votes: bool) -> None:
    """Raises PlanError if an engine cannot run the arm, or if it is a vote and the client does not count votes."""
    if problem := unsupported_reason(arm, VLLM.abilities, answer_mode):
        raise PlanError(problem)
    if arm.strategy.traits.num_samples > 1 and not counts_votes:
        raise PlanError(
            f"{arm.label} chooses among {arm.strategy.traits.num_samples} answers, but a request generates one of them."
        )


def _check_node(node: Any) -> None:
    """Raises ConfigError unless a node has registered names, finite numbers and no files.

    A client must not choose what code runs or what files are read here.
    """
    if isinstance(node, dict):
        if "fitted" in node:
            raise ConfigError("vllm_xargs: fitted is the path of a file. Send the parameters in that file instead.")
        name = node.get("name", "")
        if not isinstance(name, str) or ":" in name or "/" in name:
            raise ConfigError(f"vllm_xargs: {name!r} is not the name of a strategy (icl ls strategies).")
        for value in node.values():
            _check_node(value)
    elif isinstance(node, list):
        for value in node:
            _check_node(value)
    elif isinstance(node, str) and not _is_whole_text(node):
        raise ConfigError("vllm_xargs: a string contains an unpaired surrogate, which cannot be encoded.")
    elif isinstance(node, str) and _is_path(node):
        raise ConfigError(f"vllm_xargs: {node!r} is not the name of a strategy (icl ls strategies).")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"vllm_xargs: {node} is not a finite number.")


def _is_whole_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_path(text: str) -> bool:
    """Whether a text might name code: `module:name`, `file.py:name`. A sentence with a colon does not."""
    before, colon, _ = text.rpartition(":")
    return bool(colon) and (before.endswith(".py") or not re.search(r"\s", before.strip()))


CONFIG_KEY = "strategy_models"
"""The key of vLLM's `additional_config` with the names and their nodes."""


@dataclass(frozen=True)
class StrategyModels:
    """Model name -> node of the strategy that answers under it, for clients that cannot send `vllm_xargs`.

    `icl serve tiny --as tiny-vcd='{name: vcd, alpha: 0.5}'` serves the checkpoint under two names. A chat request to
    `tiny-vcd` is decoded by vcd, and both names are in `/v1/models`.
    """

    nodes: Mapping[str, Any]

    def expand(self, body: Any) -> Any:
        """The body of a request with the strategy of its model; any other body as it is.

        Raises:
            ConfigError: The request names another strategy.
        """
        model = body.get("model") if isinstance(body, dict) else None
        if not isinstance(model, str) or model not in self.nodes:
            return body
        extra = body.get("vllm_xargs") or {}
        if not isinstance(extra, dict) or "strategy" in extra:
            raise ConfigError(f"the model '{model}' has a strategy. Remove vllm_xargs.strategy, or use another model.")
        return body | {"vllm_xargs": extra | {"strategy": self.nodes[model]}}


def check_strategy_model(name: str, node: Any) -> None:
    """Raises ConfigError unless a node is a strategy that the server can run, as for the requests of a client."""
    if not re.fullmatch(r"(?!-)[\w.:/-]+", name):
        raise ConfigError(
            f"--as: write NAME=STRATEGY, such as tiny-vcd=vcd. {name!r:.80} cannot be a name: use letters, digits and "
            "the characters . : / _ -, and start with no hyphen."
        )
    is_name = isinstance(node, str) and bool(node) and not node.lstrip().startswith("{")
    if not is_name and not isinstance(node, dict):
        raise ConfigError(f"--as: write NAME=STRATEGY, such as {name}=vcd or {name}='{{name: vcd, alpha: 0.5}}'.")
    try:
        check_runs(parse_strategy({"vllm_xargs": {"strategy": node}}), "generate", counts_votes=False)
    except (ConfigError, PlanError) as error:
        raise ConfigError(f"--as {name}: {str(error).removeprefix('vllm_xargs: ')}") from error
