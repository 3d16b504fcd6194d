"""Bounded memory: a batch that halves where memory runs out."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from icl.errors import ModelError
from icl.models.out_of_memory import is_out_of_memory

V = TypeVar("V")
T = TypeVar("T")


def halving(
    run: Callable[[Sequence[T]], list[V]], batch: Sequence[T], what: str, relieve: Callable[[], None] = lambda: None
) -> list[V]:
    """`run(batch)`, in halves where memory runs out. Raises ModelError where a single item does not fit.

    relieve: gives back what can be spared before the halves are tried.
    """
    try:
        return run(batch)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) <= 1:
            raise ModelError(
                f"out of memory with a single one of the {what}: {str(error).splitlines()[0]} Take fewer shots, "
                "smaller images, a lower dtype or a larger device."
            ) from error
    relieve()
    free()
    middle = len(batch) // 2
    first = halving(run, batch[:middle], what, relieve)
    return first + halving(run, batch[middle:], what, relieve)


def free() -> None:
    """Give unused device memory back, after the frames that held it are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
