"""An order learned elsewhere: a file of ids, for methods whose trainer is not part of this toolkit.

Lever-LM, TACO, MSIER and their kin give each query a list of demonstrations. The file is one JSON object (.json), or a
line for each query (.jsonl):

    {"query-1": ["demo-7", "demo-3"], "query-2": [["demo-1", 0.93], ["demo-9", 0.71]]}
    {"query": "query-1", "demos": ["demo-7", "demo-3"]}

Best first, with scores where there are any. Ids that would leak (the query itself, one of its images) are passed
over.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from icl.errors import DataError, PlanError, did_you_mean
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Resources
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy


@component("retriever", "external")
@dataclass(frozen=True)
class External:
    """Demonstrations listed in a file: the adapter for learned selectors."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = False

    path: str  # .json or .jsonl: query id -> ids of demonstrations, best first

    def ready(self) -> None:
        """Raises DataError where the file is missing or is no list."""
        listed(Path(self.path).expanduser())

    def fit(self, pool: Pool, resources: Resources) -> "FittedExternal":
        return FittedExternal(self.path, pool, listed(Path(self.path).expanduser()))


@dataclass(frozen=True)
class FittedExternal:
    """The lists of a file over one pool."""

    path: str
    pool: Pool
    lists: Mapping[str, Sequence[RetrievedExample]]

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        return [self._one(query, k, policy) for query in queries] if k else [() for _ in queries]

    def _one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        if query.id not in self.lists:
            raise DataError(
                f"{self.path} lists nothing for query '{query.id}'.{did_you_mean(query.id, self.lists)} "
                f"It has {len(self.lists)} queries."
            )
        listed_, is_allowed = self.lists[query.id], policy.allowed_for(query)
        for one in listed_:
            if one.id not in self.pool.by_id:
                raise DataError(
                    f"{self.path}: query '{query.id}' lists '{one.id}', which is not in the pool."
                    f"{did_you_mean(one.id, self.pool.by_id)}"
                )
        given = [one for one in listed_ if is_allowed(self.pool.by_id[one.id])]
        if len(given) < k:
            raise PlanError(
                f"{self.path}: {k} demonstrations for query '{query.id}', and {len(given)} of {len(listed_)} listed "
                f"may be shown. Ask for at most {len(given)} shots, or list more."
            )
        return tuple(given[:k])


def listed(path: Path) -> dict[str, list[RetrievedExample]]:
    """query id -> its demonstrations. Raises DataError with the query at fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"retriever 'external': {path} cannot be read ({error.strerror}).") from error
    lists: dict[str, list[RetrievedExample]] = {}
    for query, demos in _entries(path, text):
        if query in lists:
            raise DataError(f"{path} lists query '{query}' twice.")
        lists[query] = [_scored(path, query, one) for one in demos]
        if len({one.id for one in lists[query]}) < len(lists[query]):
            raise DataError(f"{path}: query '{query}' lists a demonstration twice.")
    return lists


def _entries(path: Path, text: str) -> Iterator[tuple[str, list[Any]]]:
    try:
        if path.suffix == ".jsonl":
            found = [(line["query"], line["demos"]) for line in map(json.loads, filter(str.strip, text.splitlines()))]
        else:
            found = list(json.loads(text).items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a list of demonstrations ({type(error).__name__}: {error}). A .json file is one object, "
            f"query id to ids; a .jsonl file has 'query' and 'demos' on each line."
        ) from error
    for query, demos in found:
        if not isinstance(demos, list):
            raise DataError(f"{path}: query '{query}' has {demos!r} where a list of ids belongs.")
        yield str(query), demos


def _scored(path: Path, query: str, one: Any) -> RetrievedExample:
    if isinstance(one, str):
        return RetrievedExample(one)
    if isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int | float):
        return RetrievedExample(one[0], float(one[1]))
    raise DataError(f"{path}: query '{query}' lists {one!r}; an entry is an id, or a list of an id and a score.")
