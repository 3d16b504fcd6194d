"""An arm as JSON text, from which another process builds the same strategy and sampler."""

import json
from functools import lru_cache
from typing import Any

from decoding.base import Strategy
from decoding.formulas.sampling import Greedy, Sampler, Sampling
from icl.errors import PlanError
from icl.registry import build, to_config

SAMPLERS: dict[str, type[Greedy | Sampling]] = {"greedy": Greedy, "sampling": Sampling}


def serialize(strategy: Strategy, sampler: Sampler) -> str:
    """The text of a strategy and a sampler.

    Raises:
        PlanError: A component has no name, or is not equal to the one built from the text.
    """
    return _serialized((strategy, sampler))


@lru_cache(1024)
def _serialized(arm: tuple[Strategy, Any]) -> str:
    strategy, sampler = arm
    if type(sampler) not in SAMPLERS.values():
        raise PlanError(f"the sampler {type(sampler).__name__} cannot be sent to the engine's process. Use Sampling.")
    text = json.dumps([to_config(strategy), to_config(sampler)], sort_keys=True)
    if deserialize(text) != (strategy, sampler):
        raise PlanError(
            f"{type(strategy).__name__} is not equal to the strategy that its parameters build, so it cannot be "
            "sent to the engine's process. A strategy is a frozen dataclass whose fields are all its parameters."
        )
    return text


@lru_cache(1024)
def deserialize(text: str) -> tuple[Strategy, Sampler]:
    """Strategy and sampler of a text. Raises ConfigError if this process does not know the strategy."""
    strategy, sampler = json.loads(text)
    return build("strategy", strategy), SAMPLERS[sampler.pop("name")](**sampler)
