"""Recovery from out-of-memory errors: the batch is split into halves."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from icl.errors import ICLError, ModelError
from icl.out_of_memory import first_line, is_out_of_memory

V = TypeVar("V")
T = TypeVar("T")


def halving(
    run: Callable[[Sequence[T]], list[V]], batch: Sequence[T], what: str, relieve: Callable[[], None] = lambda: None
) -> list[V]:
    """`run(batch)`, in halves if memory runs out.

    Args:
        run: Computes one result for each item.
        batch: The items.
        what: Plural noun for the items, for the error message.
        relieve: Frees optional memory before the halves are tried.

    Raises:
        ModelError: A single item does not fit into memory.
    """
    try:
        return run(batch)
    except ICLError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) <= 1:
            raise ModelError(
                f"out of memory with a batch of one of the {what}: {first_line(error)} Use fewer shots, "
                "smaller images, a lower dtype or a larger device."
            ) from error
    relieve()
    free()
    middle = len(batch) // 2
    first = halving(run, batch[:middle], what, relieve)
    return first + halving(run, batch[middle:], what, relieve)


def free() -> None:
    """Give unused memory back to the device. Call it outside the frames that held the tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
