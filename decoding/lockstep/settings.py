"""The arguments that make a vLLM engine decode groups."""

from typing import Any

from decoding.lockstep.guard import SCHEDULER

PROCESSOR = "decoding.lockstep.processor:LockstepProcessor"
WORKER = "decoding.lockstep.worker.LedgerReader"


def engine_arguments() -> dict[str, Any]:
    """For `vllm.LLM(...)` or `EngineArgs(...)`; a server takes them as options of the same names."""
    return {
        "scheduler_cls": SCHEDULER,
        "logits_processors": [PROCESSOR],
        "worker_extension_cls": WORKER,
        "async_scheduling": False,
    }
