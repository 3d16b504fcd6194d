"""One set of demonstrations for all queries, which `icl optimize` searches or a person chooses.

The file is what `icl optimize` writes, or any JSON object with the ids in the order of the prompt:

    {"demos": ["demo-7", "demo-3"]}

All prompts begin with the same demonstrations, so that a model reads them once. The order of the file is the order of
the prompt under `order: as_retrieved`. Fewer shots take the first ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from icl import (
    ConfigError,
    DataError,
    PlanError,
    Pool,
    Query,
    RetrievedExample,
    component,
    did_you_mean,
    expand_user,
    pin_file,
)
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos

ORIGIN = ("model_digest", "task", "task_digest", "template_digest", "keeps_order")
"""What a file of `icl optimize` says of its search: the model and the dev queries that chose the set, and the composer
and the order of the prompts that were rated.
"""


@component("retriever", "fixed")
@dataclass(frozen=True)
class Fixed:
    """The same demonstrations for all queries, from a file of `icl optimize` or by their ids."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = False
    reads_pool_only: ClassVar[bool] = True
    transfer: ClassVar[bool] = True  # a set may be of another model; a plan says so

    path: str = ""  # JSON file with `demos`, a list of ids in the order of the prompt
    ids: tuple[str, ...] = ()  # the ids themselves, in place of a file
    code: str = ""  # digest of the file's content; set automatically

    def __post_init__(self) -> None:
        if self.path:
            pin_file(self, self.path, self.path)

    def preflight(self) -> None:
        """Raises ConfigError without one set of demonstrations, and DataError for a wrong file."""
        self.demos()

    @property
    def fitted(self) -> str:
        """The file, as fitted retrievers call theirs."""
        return self.path

    @cached_property
    def fitted_on(self) -> Mapping[str, Any]:
        """What ORIGIN names, as `icl optimize` records it; {} without a record."""
        if not self.path or not expand_user(self.path).is_file():
            return {}
        content = read_fixed_set(expand_user(self.path))
        return {key: content[key] for key in ORIGIN if key in content}

    def demos(self) -> tuple[str, ...]:
        """The ids. Raises as `preflight`."""
        if bool(self.path) == bool(self.ids):
            raise ConfigError("retriever 'fixed' needs one set: path, a file of `icl optimize`, or ids.")
        if len(set(self.ids)) < len(self.ids):
            raise ConfigError(f"retriever 'fixed': ids names one demonstration twice: {', '.join(self.ids)}.")
        return self.ids or tuple(read_fixed_set(expand_user(self.path))["demos"])

    def fit(self, pool: Pool, resources: Resources) -> "FittedFixed":
        """Raises DataError if the pool lacks a demonstration."""
        if self.path:
            pin_file(self, self.path, self.path)
        where, ids = self.path or "retriever 'fixed'", self.demos()
        for name in ids:
            if name not in pool.by_id:
                raise DataError(f"{where}: '{name}' is not in the pool.{did_you_mean(name, pool.by_id)}")
        return FittedFixed(where, pool, ids)


@dataclass(frozen=True)
class FittedFixed:
    """A fixed set of one pool. All scores are 0."""

    where: str
    pool: Pool
    ids: Sequence[str]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        if k > len(self.ids):
            raise PlanError(f"{self.where}: {k} shots, and the set has {len(self.ids)} demonstrations.")
        return [self._retrieve_one(query, k, policy) for query in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed = policy.allowed_for(query)
        leak = next((name for name in self.ids[:k] if not is_allowed(self.pool.by_id[name])), None)
        if leak is not None:
            raise PlanError(
                f"{self.where}: '{leak}' is query '{query.id}', or has one of its images. A fixed set must have no "
                "query of the study: choose another demonstration, or another split."
            )
        return tuple(map(RetrievedExample, self.ids[:k]))


def read_fixed_set(path: Path) -> dict[str, Any]:
    """The content of a file with the ids. Raises DataError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"retriever 'fixed': {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"retriever 'fixed': {path} is not JSON ({error}).") from error
    ids = content.get("demos") if isinstance(content, dict) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) for name in ids):
        raise DataError(f"retriever 'fixed': {path} has no list `demos` of ids. `icl optimize` writes one.")
    if len(set(ids)) < len(ids):
        raise DataError(f"retriever 'fixed': {path} lists a demonstration twice.")
    return dict(content)
