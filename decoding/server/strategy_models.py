"""Model names that stand for a strategy on the served model, for clients that cannot send `vllm_xargs`.

`icl serve tiny --as tiny-vcd='{name: vcd, alpha: 0.5}'` serves the checkpoint under two names. A chat request to
`tiny-vcd` is decoded by vcd, and both names are in `/v1/models`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decoding.server.strategy_parsing import check_runs, parse_strategy
from icl.errors import ConfigError, PlanError

CONFIG_KEY = "strategy_models"
"""The key of vLLM's `additional_config` with the names and their nodes."""


@dataclass(frozen=True)
class StrategyModels:
    """Model name -> node of the strategy that answers under it."""

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
