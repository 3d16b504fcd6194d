"""An engine in a process of its own that dies is told to whoever waits for it.

A process may be killed for memory in the middle of a run. vLLM's client notes that it has gone, and waits without end
for what it would have said: outputs, and answers to calls. Here both end with vLLM's own error.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any
from weakref import ReferenceType, ref

from icl.errors import ModelError

LOOKS = 0.5
"""Seconds between two looks."""


def watch(core: Any) -> None:
    """core: the client of an engine; one that runs in this process cannot die alone."""
    if hasattr(core, "resources"):
        Thread(target=_watch, args=(ref(core),), name="engine watch", daemon=True).start()


@contextmanager
def living(path: str) -> Iterator[None]:
    """Raises ModelError where the engine of a checkpoint has ended."""
    from vllm.exceptions import VLLMServerError

    try:
        yield
    except VLLMServerError as error:
        raise ModelError(
            f"{path}: the engine has ended in the middle of the run, and its own lines above say why ({error}). What "
            "was answered is kept; the same command asks for the rest."
        ) from error


def _watch(watched: "ReferenceType[Any]") -> None:
    from concurrent.futures import InvalidStateError

    from vllm.v1.engine.exceptions import EngineDeadError

    while (core := watched()) is not None:
        if core.resources.engine_dead:
            core.outputs_queue.put_nowait(EngineDeadError())
            for answer in list(core.utility_results.values()):
                with suppress(InvalidStateError):  # it was answered in its last moment
                    answer.set_exception(EngineDeadError())
            return
        del core
        time.sleep(LOOKS)
