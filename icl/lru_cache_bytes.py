"""LRU cache bounded in bytes, for decoded images, features, processed pixels and token ids."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUByteCache(Generic[K, V]):
    """Thread-safe LRU cache. Its values take at most `limit` bytes in total.

    A value larger than the limit is not stored; `put` returns it all the same.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self.limit, self.size, self.used = limit, size, 0
        self.items: OrderedDict[K, V] = OrderedDict()
        self.lock = RLock()

    def __len__(self) -> int:
        return len(self.items)

    def get(self, key: K) -> V | None:
        with self.lock:
            if key in self.items:
                self.items.move_to_end(key)
            return self.items.get(key)

    def put(self, key: K, value: V) -> V:
        size = self.size(value)
        with self.lock:
            self.pop(key)
            if size <= self.limit:
                self.items[key] = value
                self.used += size
                while self.used > self.limit:
                    self.pop(next(iter(self.items)))
        return value

    def pop(self, key: K) -> None:
        with self.lock:
            if key in self.items:
                self.used -= self.size(self.items.pop(key))

    def clear(self) -> None:
        with self.lock:
            self.items.clear()
            self.used = 0
