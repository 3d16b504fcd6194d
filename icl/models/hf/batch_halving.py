"""Batches within a limit that out-of-memory errors lower (`icl.memory`)."""

import copy
import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from icl import BatchLimit, ICLError, ModelError, first_line, is_out_of_memory

V = TypeVar("V")
T = TypeVar("T")


def run_within_limit(
    run: Callable[[Sequence[T]], list[V]],
    items: Sequence[T],
    limit: BatchLimit,
    what: str,
    *,
    size: Callable[[Sequence[T]], int] = len,
    may_join: Callable[[Sequence[T]], bool] = lambda batch: True,
    relieve: Callable[[], None] = lambda: None,
) -> list[V]:
    """The results of `run` for batches of neighboring items.

    Args:
        run: Computes the results of a batch.
        items: The items in an order in which neighbors suit each other.
        limit: The largest batch. It is lowered if memory runs out.
        what: Plural noun for the items, for the error message.
        size: Size of a batch in the unit of the limit.
        may_join: Whether the last item of a batch may be with the others.
        relieve: Frees optional memory before a smaller batch is tried.

    Raises:
        ModelError: A single item does not fit into memory.
    """
    pending, results, before = list(items), list[V](), copy.copy(limit)
    while pending:
        count = 1
        while count < len(pending) and may_join(batch := pending[: count + 1]) and limit.fits(size(batch)):
            count += 1
        batch = pending[:count]
        try:
            results += run(batch)
        except ICLError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if count == 1:
                limit.forget_since(before)
                raise ModelError(
                    f"out of memory with a batch of one of the {what}: {first_line(error)} Use fewer shots, "
                    "smaller images, a lower dtype or a larger device."
                ) from error
        else:
            limit.record_fit(size(batch))
            pending = pending[count:]
            continue
        # outside of `except`: its traceback holds the tensors of the failed batch
        limit.record_failure(size(batch))
        relieve()
        free()
    return results


def free(collect: bool = True) -> None:
    """Give unused memory back to the device. Call it outside the frames that held the tensors.

    Args:
        collect: Whether to collect garbage first, which takes some 0.2 s. Only reference cycles need it.
    """
    if collect:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
