"""Demonstrations from another data set (Huang et al., 2506.07936: accuracy then often falls with the number of shots).

    task: {name: other_support, of: {name: hub, preset: ok_vqa}, support: {name: hub, preset: vqav2}}

Queries come from `of`, demonstrations from the pools of `support`. If its queries have pools of their own, each
query of `of` gets one of them, in turn. Compare with the task itself, which has the same query ids: the difference
is what a demonstration is worth beyond its format. The control in the other direction is the task with 0 shots.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated
from weakref import WeakKeyDictionary

from icl import Example, NestedComponent, Pool, Task, component


@component("task", "other_support")
@dataclass(frozen=True, kw_only=True)
class OtherSupportTask:
    """The queries of one task with the support pools of another."""

    of: Annotated[Task, NestedComponent("task")]  # task of the queries
    support: Annotated[Task, NestedComponent("task")]  # task of the demonstrations

    @property
    def title(self) -> str:
        return f"{self.of.title} · support {self.support.title}"

    @property
    def pool_shares_images(self) -> bool:
        """True: the two data sets may have images in common, which the leak policy then keeps apart."""
        return True

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self.of.queries)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {query.id: place for place, query in enumerate(self.queries)}

    @cached_property
    def _pools(self) -> "WeakKeyDictionary[Pool, Pool]":
        return WeakKeyDictionary()

    def pool(self, query_id: str) -> Pool:
        self.of.pool(query_id)  # raises the error of an unknown query
        others = self.support.queries
        pool = self.support.pool(others[self._places[query_id] % len(others)].id)
        if pool not in self._pools:
            self._pools[pool] = Pool(tuple(replace(e, id=f"support-{e.id}") for e in pool.examples))
        return self._pools[pool]

    @property
    def pool_size(self) -> int:
        return self.support.pool_size
