"""Python looks for cyclic garbage by how many objects were made; a run makes very many and no cycles of them.

Each look goes through all that a window of prompts is made of. Where a model answers in milliseconds, that is a
twentieth of a run.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 10_000
"""Made and not let go, after which the youngest are looked through; Python's own is 700."""


@contextmanager
def infrequent_gc() -> Iterator[None]:
    """Within it; where somebody has switched the looking off, it stays off."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(OBJECTS, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
