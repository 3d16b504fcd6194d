"""Any task under a domain shift: its pictures corrupted (Hendrycks and Dietterich, ICLR 2019).

    task: {name: corrupted, of: {name: binding, ways: 4}, by: noise, severity: 3}

With `where: query` (the default) the pool is clean and the queries are not: demonstrations of another domain. With
`pool` it is the other way round, with `all` both are of the shifted domain. Queries keep their ids, so severities are
paired. `icl.corruptions` has the numbers of each severity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

from icl.corruptions import Kind, Severity, corrupted
from icl.registry import Nested, component
from icl.tasks.base import Pool, Task
from icl.types import Example

Where = Literal["query", "pool", "all"]
CLEAN = "clean"


@component("task", "corrupted")
@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """Another task with its queries' or its pool's pictures corrupted: noise, blur, contrast, jpeg, five severities.

    The domain of an example ("noise 3", or "clean") is its `domain`, after that of the task where it has one, and is in
    `meta`.
    """

    of: Annotated[Task, Nested("task")]  # the task
    by: Kind = "noise"  # what is done to the pictures
    severity: Severity = 3  # 1 to 5; 0: nothing
    where: Where = "query"  # whose pictures
    seed: int = 0  # of the noise; the seeds of a run do not change it

    @cached_property
    def _pools(self) -> "WeakKeyDictionary[Pool, Pool]":
        return WeakKeyDictionary()

    @property
    def title(self) -> str:
        where = "" if self.where == "query" else f" in {'the pool' if self.where == 'pool' else 'all'}"
        return f"{self.of.title} · {self.by} {self.severity}{where}" if self.severity else self.of.title

    @property
    def pool_shares_pictures(self) -> bool:
        return bool(getattr(self.of, "pool_shares_pictures", False))

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self._shifted(query, self.where != "pool") for query in self.of.queries)

    def pool(self, query_id: str) -> Pool:
        pool = self.of.pool(query_id)
        if pool not in self._pools:
            self._pools[pool] = Pool(tuple(self._shifted(e, self.where != "query") for e in pool.examples))
        return self._pools[pool]

    @property
    def pool_size(self) -> int:
        return self.of.pool_size

    def facts(self, demos: Sequence[Example]) -> Mapping[str, Any]:
        """What the task itself can tell of demonstrations, which their pictures do not change."""
        told: Mapping[str, Any] = getattr(self.of, "facts", lambda shown: {})(demos)
        return told

    def _shifted(self, example: Example, here: bool) -> Example:
        severity = self.severity if here else 0
        domain = f"{self.by} {severity}" if severity else CLEAN
        whole = domain if example.domain is None else f"{example.domain}, {domain}"
        pictures = tuple(corrupted(picture, self.by, severity, self.seed) for picture in example.pictures)
        return replace(example, pictures=pictures, domain=whole, meta={**example.meta, "domain": whole})
