"""Recognition of out-of-memory errors, on which engines and backends halve a batch."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator or the CPU allocator ran out of memory. The latter raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
