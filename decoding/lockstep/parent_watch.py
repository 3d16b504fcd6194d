"""An engine's process ends with the process that started it.

vLLM's workers watch their engine, and nobody watches the server: killed, it left an engine behind that held its memory.
"""

import multiprocessing
import os
from threading import Thread
from typing import Any

OURS = "EngineCore"
"""How vLLM's names of such processes begin."""


def exit_with_parent() -> None:
    """Nothing where the engine runs in a process that is not its own."""
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.current_process().name.startswith(OURS):
        Thread(target=_leave, args=(parent,), name="parent watch", daemon=True).start()


def _leave(parent: Any) -> None:
    parent.join()
    os._exit(1)  # nobody is left to be told; the workers see it
