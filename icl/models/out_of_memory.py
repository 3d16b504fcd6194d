"""How a backend that computes here says that memory ran out: what engines and backends answer by halving a batch."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Of an accelerator, or of the CPU's allocator, which has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
