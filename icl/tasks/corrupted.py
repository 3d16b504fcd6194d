"""Any task under a domain shift: its images are corrupted (Hendrycks and Dietterich, ICLR 2019).

    task: {name: corrupted, of: {name: binding, ways: 4}, by: noise, severity: 3}

With `where: query` (the default) only the queries are corrupted, so demonstrations have another domain. With `pool`
only the pool is, and with `all` both are. Queries keep their ids, so severities are paired. `icl.edits.corruption`
lists the parameters of each severity. Any image edit can be the corruption, also a user's:

    task: {name: corrupted, of: {name: binding}, by: {name: 'stripes.py:Stripes', width: 3}}
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from icl.edits import Edit
from icl.edits.corruption import CorruptionSource, Severity, corrupt
from icl.errors import ConfigError
from icl.registry import NestedComponent, component, describe
from icl.tasks.altered import AlteredTask
from icl.tasks.base import Task
from icl.types import Example

Where = Literal["query", "pool", "all"]
CLEAN = "clean"
USUAL = 3
"""Default severity."""


@component("task", "corrupted")
@dataclass(frozen=True, kw_only=True)
class CorruptedTask(AlteredTask):
    """A task with corrupted images of its queries or its pool, by noise, blur, contrast, jpeg, or any edit.

    The domain of an example is "noise 3" or "clean", after the domain of the task if it has one. It is stored in
    `domain` and in `meta`.
    """

    of: Annotated[Task, NestedComponent("task")]  # task to corrupt
    by: CorruptionSource = "noise"  # corruption of the images; or an edit with its parameters (icl ls edit)
    severity: Severity = USUAL  # severity of the first four, 1 to 5; 0: none
    where: Where = "query"  # owners of the images to corrupt
    seed: int = 0  # random seed of the corruptions, independent of the seeds of a run

    def __post_init__(self) -> None:
        if isinstance(self.by, Edit) and self.severity not in (0, USUAL):
            raise ConfigError(f"by: an edit has no severity but its own parameters. Remove severity: {self.severity}.")

    @property
    def title(self) -> str:
        where = "" if self.where == "query" else f" in {'the pool' if self.where == 'pool' else 'all'}"
        return f"{self.of.title} · {self.shift}{where}" if self.severity else self.of.title

    @property
    def shift(self) -> str:
        """Name of the shifted domain: 'noise 3', 'rotate (degrees 90)'."""
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

    def altered(self, example: Example, in_pool: bool) -> Example:
        severity = self.severity if self.where in ("all", "pool" if in_pool else "query") else 0
        domain = self.shift if severity else CLEAN
        whole = domain if example.domain is None else f"{example.domain}, {domain}"
        images = tuple(corrupt(image, self.by, severity, self.seed) for image in example.images)
        return replace(example, images=images, domain=whole, meta={**example.meta, "domain": whole})
