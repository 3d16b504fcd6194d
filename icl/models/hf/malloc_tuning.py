"""Freed memory of the CPU is kept for the next tensor of its size.

A cache that grows by a token frees and takes the same few megabytes in every layer at every step. By default glibc
hands each block back to the kernel and has its pages zeroed anew: more than half of the time of a long answer on a
small model, a quarter of a short one's. Peak memory stays what it was; between batches the process keeps it.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM, MAP = 512 * 2**20, 64 * 2**20
"""Bytes that may lie free at the top of the heap, and from which size a block is mapped on its own."""


def keep_freed_memory() -> bool:
    """Whether the allocator was told; not where it is another one, or where the environment sets it already."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator is None:
        return False
    return bool(allocator(M_MMAP_THRESHOLD, MAP)) and bool(allocator(M_TRIM_THRESHOLD, TRIM))
