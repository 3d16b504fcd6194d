"""Ends an engine's process when the process that started it ends.

vLLM's workers watch their engine, but nothing watches the server. Without this module, a server that is killed leaves
an engine behind that holds its memory.
"""

import multiprocessing
import os
from threading import Thread
from typing import Any

ENGINE_PROCESS_PREFIX = "EngineCore"
"""Start of the names that vLLM gives to engine processes."""


def exit_with_parent() -> None:
    """Starts the watch. Does nothing if the engine has no process of its own."""
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.current_process().name.startswith(ENGINE_PROCESS_PREFIX):
        Thread(target=_exit_after, args=(parent,), name="parent watch", daemon=True).start()


def _exit_after(parent: Any) -> None:
    parent.join()
    os._exit(1)  # vLLM's workers notice that their engine has ended
