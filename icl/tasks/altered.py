"""The base class of tasks that change the examples of another task."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from icl.tasks.base import Pool, Task
from icl.types import Example


class AlteredTask:
    """Base class of tasks whose examples are those of another task, changed one by one. Pools stay shared."""

    of: Task

    def altered(self, example: Example, in_pool: bool) -> Example:
        """An example of the other task as it is in this one.

        Args:
            example: A query of the other task, or an example of its pools.
            in_pool: Whether it is of a pool.
        """
        raise NotImplementedError

    @property
    def pool_shares_images(self) -> bool:
        return bool(getattr(self.of, "pool_shares_images", False))

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self.altered(query, False) for query in self.of.queries)

    @cached_property
    def _pools(self) -> "WeakKeyDictionary[Pool, Pool]":
        return WeakKeyDictionary()

    def pool(self, query_id: str) -> Pool:
        pool = self.of.pool(query_id)
        if pool not in self._pools:
            self._pools[pool] = Pool(tuple(self.altered(example, True) for example in pool.examples))
        return self._pools[pool]

    @property
    def pool_size(self) -> int:
        return self.of.pool_size

    def facts(self, demos: Sequence[Example]) -> Mapping[str, Any]:
        """The facts of the other task."""
        facts: Mapping[str, Any] = getattr(self.of, "facts", lambda demos_: {})(demos)
        return facts
