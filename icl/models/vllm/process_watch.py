"""Reports the death of an engine process to threads that wait for it.

An engine process may be killed in the middle of a run, for example when memory runs out. vLLM's client notices it, but
waits forever for outputs and for results of calls. With this module both end with vLLM's own error.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any
from weakref import ReferenceType, ref

from icl.errors import ModelError

POLL_SECONDS = 0.5
"""Time between two checks."""


def watch(core: Any) -> None:
    """Starts the watch of an engine client. Does nothing if the engine runs in this process."""
    if hasattr(core, "resources"):
        Thread(target=_watch, args=(ref(core),), name="engine watch", daemon=True).start()


@contextmanager
def convert_engine_death(path: str) -> Iterator[None]:
    """Raises ModelError if the engine of a checkpoint dies inside the block."""
    from vllm.exceptions import VLLMServerError

    try:
        yield
    except VLLMServerError as error:
        raise ModelError(
            f"{path}: the engine has ended in the middle of the run, see its log above ({error}). Finished "
            "answers are stored. Run the same command again to continue."
        ) from error


def _watch(core_reference: "ReferenceType[Any]") -> None:
    from concurrent.futures import InvalidStateError

    from vllm.v1.engine.exceptions import EngineDeadError

    while (core := core_reference()) is not None:
        if core.resources.engine_dead:
            core.outputs_queue.put_nowait(EngineDeadError())
            for result in list(core.utility_results.values()):
                with suppress(InvalidStateError):  # the engine answered just before it died
                    result.set_exception(EngineDeadError())
            return
        del core
        time.sleep(POLL_SECONDS)
