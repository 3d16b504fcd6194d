"""Batches within a limit that out-of-memory errors lower (`icl.memory`)."""

import copy
import gc
import itertools
from bisect import bisect_left
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
        size: Size of a batch in the unit of the limit. More items are never smaller.
        may_join: Whether a batch may be formed. Its first items may be, if it may.
        relieve: Frees optional memory before a smaller batch is tried.

    Raises:
        ModelError: A single item does not fit into memory.
    """
    results, before, start = list[V](), copy.copy(limit), 0

    def is_too_many(count: int) -> bool:
        batch = items[start : start + count]
        return len(batch) < count or not (may_join(batch) and limit.fits(size(batch)))

    while start < len(items):
        # Doubling, then bisection: as many looks as the logarithm of the batch's size.
        upper = next(2**exponent for exponent in itertools.count(1) if is_too_many(2**exponent))
        count = bisect_left(range(upper), True, lo=upper // 2 + 1, key=is_too_many) - 1
        batch = items[start : start + count]
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
                    f"out of memory with a batch of one of the {what}: {first_line(error)}. Use fewer shots, "
                    "smaller images, a lower dtype or a larger device."
                ) from error
        else:
            limit.record_fit(size(batch))
            start += count
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
