"""An arm as text that another process can build it from, so that every process runs the very same formula."""

import json
import sys
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from decoding.base import Strategy
from decoding.formulas.sampling import Greedy, Sampler, Sampling
from icl.errors import PlanError
from icl.registry import build, is_builtin


def serialize(strategy: Strategy, sampler: Sampler) -> str:
    """The text. Raises PlanError where a piece cannot be named, or would not come back as it is."""
    return _written((strategy, sampler))


@lru_cache(1024)
def _written(arm: tuple[Strategy, Any]) -> str:
    strategy, sampler = arm
    text = json.dumps([_node(strategy), _drawn(sampler)], sort_keys=True)
    if deserialize(text) != (strategy, sampler):
        raise PlanError(
            f"{type(strategy).__name__} is another strategy when it is made anew from its parameters, so it cannot be "
            "sent to the engine's process. A strategy is a frozen dataclass whose fields say everything."
        )
    return text


@lru_cache(1024)
def deserialize(text: str) -> tuple[Strategy, Sampler]:
    """Strategy and sampler of a text. Raises ConfigError where the strategy is not known in this process."""
    strategy, drawn = json.loads(text)
    return build("strategy", strategy), Sampling(**drawn) if drawn else Greedy()


def _drawn(sampler: Sampler) -> dict[str, float] | None:
    if isinstance(sampler, Greedy):
        return None
    if not isinstance(sampler, Sampling):
        raise PlanError(f"the sampler {type(sampler).__name__} cannot be sent to the engine's process; Sampling can.")
    return {f.name: getattr(sampler, f.name) for f in fields(sampler)}


def _node(thing: Any) -> Any:
    if is_dataclass(thing) and not isinstance(thing, type):
        mark = getattr(type(thing), "component", None)
        named = mark[1] if mark and is_builtin(type(thing)) else _path(type(thing))
        return {"name": named} | {
            str(f.metadata.get("key", f.name)): _node(getattr(thing, f.name)) for f in fields(thing) if f.init
        }
    if isinstance(thing, tuple | list):
        return [_node(item) for item in thing]
    if isinstance(thing, set | frozenset):
        return sorted(map(_node, thing), key=repr)
    if isinstance(thing, dict):
        return {str(key): _node(value) for key, value in thing.items()}
    return _path(thing) if callable(thing) else thing


def _path(thing: Any) -> str:
    """module:name, or file:name where the module was read from a file by its path."""
    module, name = thing.__module__, thing.__qualname__
    if module == "__main__" or "<" in name:
        raise PlanError(
            f"{name} is defined in a notebook, a script or a function, where the engine's process cannot find it. Put "
            "it into a file of its own and name it as path/to/file.py:Name."
        )
    if module.startswith("icl_user_"):
        return f"{Path(str(sys.modules[module].__file__)).resolve()}:{name}"
    return f"{module}:{name}"
