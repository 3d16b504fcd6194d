"""Bounded memory: a cache that counts bytes, and a batch that halves where memory runs out."""

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch

from icl.errors import ModelError
from icl.models.memory import is_out_of_memory

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")


class ByteCache(Generic[K, V]):
    """The values used last, of at most `limit` bytes together. A value larger than that is handed back, not kept."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self.limit, self.size, self.used = limit, size, 0
        self.items: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self.items)

    def get(self, key: K) -> V | None:
        if key in self.items:
            self.items.move_to_end(key)
        return self.items.get(key)

    def put(self, key: K, value: V) -> V:
        self.pop(key)
        size = self.size(value)
        if size <= self.limit:
            self.items[key] = value
            self.used += size
            while self.used > self.limit:
                self.pop(next(iter(self.items)))
        return value

    def pop(self, key: K) -> None:
        if key in self.items:
            self.used -= self.size(self.items.pop(key))

    def clear(self) -> None:
        self.items.clear()
        self.used = 0


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
                "smaller pictures, a lower dtype or a larger device."
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
