"""Demonstrations from a file of ids, for methods trained outside this toolkit.

Methods such as Lever-LM, TACO and MSIER produce a list of demonstrations for each query. The file is one JSON object
(.json), or has one line per query (.jsonl):

    {"query-1": ["demo-7", "demo-3"], "query-2": [["demo-1", 0.93], ["demo-9", 0.71]]}
    {"query": "query-1", "demos": ["demo-7", "demo-3"]}

A list has the best demonstration first. Scores are optional. Ids that would leak (the query itself, or an example with
one of its images) are skipped. Set `reads_gold: true` for lists that were chosen with gold answers: the samples are
then marked as those of an oracle.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from icl import (
    DataError,
    PlanError,
    Pool,
    Query,
    RetrievedExample,
    component,
    did_you_mean,
    expand_user,
    later_parameter,
    pin_file,
)
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos


@component("retriever", "external")
@dataclass(frozen=True)
class External:
    """Demonstrations that a file lists: the adapter for learned selectors."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = False

    path: str  # .json or .jsonl: query id -> ids of demonstrations, best first
    reads_gold: bool = later_parameter(False)  # whether the lists were chosen with the gold answers of the queries
    code: str = ""  # digest of the file's content; set automatically

    def __post_init__(self) -> None:
        pin_file(self, self.path, self.path)
        if self.reads_gold:
            object.__setattr__(self, "needs", frozenset({"gold"}))

    def preflight(self) -> None:
        """Raises DataError if the file is missing or contains no lists."""
        read_demo_lists(expand_user(self.path))

    def fit(self, pool: Pool, resources: Resources) -> "FittedExternal":
        pin_file(self, self.path, self.path)
        return FittedExternal(self.path, pool, read_demo_lists(expand_user(self.path)))


@dataclass(frozen=True)
class FittedExternal:
    """The lists of a file, for one pool."""

    path: str
    pool: Pool
    lists: Mapping[str, Sequence[RetrievedExample]]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._retrieve_one(query, k, policy) for query in queries] if k else [() for _ in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        if query.id not in self.lists:
            raise DataError(
                f"{self.path} has no entry for query '{query.id}'.{did_you_mean(query.id, self.lists)} "
                f"It has {len(self.lists)} queries."
            )
        candidates, is_allowed = self.lists[query.id], policy.allowed_for(query)
        for demo in candidates:
            if demo.id not in self.pool.by_id:
                raise DataError(
                    f"{self.path}: query '{query.id}' lists '{demo.id}', which is not in the pool."
                    f"{did_you_mean(demo.id, self.pool.by_id)}"
                )
        demos = [demo for demo in candidates if is_allowed(self.pool.by_id[demo.id])]
        if len(demos) < k:
            raise PlanError(
                f"{self.path}: {k} demonstrations for query '{query.id}', and {len(demos)} of {len(candidates)} listed "
                f"may be shown. Use at most {len(demos)} shots, or list more."
            )
        return tuple(demos[:k])


def read_demo_lists(path: Path) -> dict[str, list[RetrievedExample]]:
    """The demonstrations by query id. Raises DataError, which names the query with the wrong entry."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"retriever 'external': {path} cannot be read ({error.strerror}).") from error
    lists: dict[str, list[RetrievedExample]] = {}
    for query, demos in _entries(path, text):
        if query in lists:
            raise DataError(f"{path} lists query '{query}' twice.")
        lists[query] = [_parse_demo(path, query, entry) for entry in demos]
        if len({demo.id for demo in lists[query]}) < len(lists[query]):
            raise DataError(f"{path}: query '{query}' lists a demonstration twice.")
    return lists


def _entries(path: Path, text: str) -> Iterator[tuple[str, list[Any]]]:
    try:
        if path.suffix == ".jsonl":
            entries = [(line["query"], line["demos"]) for line in map(json.loads, filter(str.strip, text.splitlines()))]
        else:
            entries = list(json.loads(text).items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a list of demonstrations ({type(error).__name__}: {error}). A .json file is one object, "
            f"query id to ids; a .jsonl file has 'query' and 'demos' on each line."
        ) from error
    for query, demos in entries:
        if not isinstance(demos, list):
            raise DataError(f"{path}: query '{query}' has {demos!r} instead of a list of IDs.")
        yield str(query), demos


def _parse_demo(path: Path, query: str, entry: Any) -> RetrievedExample:
    if isinstance(entry, str):
        return RetrievedExample(entry)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], int | float):
        return RetrievedExample(entry[0], float(entry[1]))
    raise DataError(f"{path}: query '{query}' lists {entry!r}; an entry is an id, or a list of an id and a score.")
