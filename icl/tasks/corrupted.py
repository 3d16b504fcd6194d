"""Any task under a domain shift: its images corrupted (Hendrycks and Dietterich, ICLR 2019).

    task: {name: corrupted, of: {name: binding, ways: 4}, by: noise, severity: 3}

With `where: query` (the default) the pool is clean and the queries are not: demonstrations of another domain. With
`pool` it is the other way round, with `all` both are of the shifted domain. Queries keep their ids, so severities are
paired. `icl.edits.corruption` has the numbers of each severity. Any edit of images corrupts too, ours or anyone's:

    task: {name: corrupted, of: {name: binding}, by: {name: 'stripes.py:Stripes', width: 3}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

from icl.edits import Edit
from icl.edits.corruption import CorruptionSource, Severity, corrupt
from icl.errors import ConfigError
from icl.registry import NestedComponent, component, describe
from icl.tasks.base import Pool, Task
from icl.types import Example

Where = Literal["query", "pool", "all"]
CLEAN = "clean"
USUAL = 3
"""The severity where nobody says."""


@component("task", "corrupted")
@dataclass(frozen=True, kw_only=True)
class CorruptedTask:
    """Another task with its queries' or its pool's images corrupted: noise, blur, contrast, jpeg, or any edit.

    The domain of an example ("noise 3", or "clean") is its `domain`, after that of the task where it has one, and is in
    `meta`.
    """

    of: Annotated[Task, NestedComponent("task")]  # the task
    by: CorruptionSource = "noise"  # what is done to the images; an edit has parameters of its own (icl ls edit)
    severity: Severity = USUAL  # of the first four, 1 to 5; 0: nothing
    where: Where = "query"  # whose images
    seed: int = 0  # of what is drawn; the seeds of a run do not change it

    def __post_init__(self) -> None:
        if isinstance(self.by, Edit) and self.severity not in (0, USUAL):
            raise ConfigError(
                f"by: an edit has parameters of its own and no severity; leave {self.severity} out. (0: nothing)"
            )

    @cached_property
    def _pools(self) -> "WeakKeyDictionary[Pool, Pool]":
        return WeakKeyDictionary()

    @property
    def title(self) -> str:
        where = "" if self.where == "query" else f" in {'the pool' if self.where == 'pool' else 'all'}"
        return f"{self.of.title} · {self.shift}{where}" if self.severity else self.of.title

    @property
    def shift(self) -> str:
        """What the shifted domain is called: 'noise 3', 'rotate (degrees 90)'."""
        if not isinstance(self.by, Edit):
            return f"{self.by} {self.severity}"
        node, defaults = describe(self.by), {one.name: one.default for one in fields(self.by)}
        name = node.pop("name").rpartition(":")[2]
        own = [
            f"{key} {value}"
            for key, value in node.items()
            if key in defaults and getattr(self.by, key) != defaults[key]
        ]
        return f"{name} ({', '.join(own)})" if own else str(name)

    @property
    def pool_shares_images(self) -> bool:
        return bool(getattr(self.of, "pool_shares_images", False))

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
        """What the task itself can tell of demonstrations, which their images do not change."""
        facts: Mapping[str, Any] = getattr(self.of, "facts", lambda demos_: {})(demos)
        return facts

    def _shifted(self, example: Example, here: bool) -> Example:
        severity = self.severity if here else 0
        domain = self.shift if severity else CLEAN
        whole = domain if example.domain is None else f"{example.domain}, {domain}"
        images = tuple(corrupt(image, self.by, severity, self.seed) for image in example.images)
        return replace(example, images=images, domain=whole, meta={**example.meta, "domain": whole})
