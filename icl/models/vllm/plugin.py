"""The plug-in of vLLM: strategies in any engine, `LLM(...)` or `vllm serve`, switched on by one key.

    LLM(model, additional_config={"lockstep": True})
    vllm serve MODEL --additional-config '{"lockstep": true}'

vLLM calls `register`, an entry point of the group `vllm.general_plugins`, before it makes an engine's configuration
and again in each of its processes. Without the key nothing changes. (An entry point in the group
`vllm.logits_processors` would put the logits processor into every engine of the environment.)
"""

from functools import wraps
from typing import Any

from icl.models.vllm.engine import PLUGIN_ARGS, SCHEDULERS

KEY = "lockstep"


def register() -> None:
    """Lets `EngineArgs` read the key. May be called several times."""
    from vllm.engine.arg_utils import EngineArgs

    create = EngineArgs.create_engine_config
    if getattr(create, "reads_lockstep", False):
        return

    @wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = self.additional_config
        if isinstance(config, dict) and _is_on(config.get(KEY, False)):
            add_lockstep(self)
        return create(self, *args, **kwargs)

    create_engine_config.reads_lockstep = True  # type: ignore[attr-defined]
    EngineArgs.create_engine_config = create_engine_config


def _is_on(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"additional_config: '{KEY}' is true or false, not {value!r}")
    return value


def add_lockstep(engine_args: Any) -> None:
    """Sets the scheduler, the logits processor and the worker extension.

    Raises:
        ValueError: The arguments name another scheduler or worker extension.
    """
    own = {
        "scheduler_cls": SCHEDULERS[engine_args.async_scheduling is not False],
        "worker_extension_cls": PLUGIN_ARGS["worker_extension_cls"],
    }
    for name, value in own.items():
        present = getattr(engine_args, name)
        if present and present not in (value, *SCHEDULERS.values()):
            raise ValueError(
                f"additional_config: '{KEY}' needs {name}={value}, but it is {present}. Remove one of the two."
            )
        setattr(engine_args, name, present or value)
    processors = [*(engine_args.logits_processors or ())]
    engine_args.logits_processors = [*processors, *(p for p in PLUGIN_ARGS["logits_processors"] if p not in processors)]
