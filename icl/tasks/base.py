"""The base protocol of tasks. A task has queries, and a support pool of possible demonstrations for each query.

Most tasks share one pool among all queries. Episodic tasks, which draw new names for every query, have one pool each.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from icl import DataError, Example, PositiveInt, Query, StreamKey, parameter

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Pool:
    """Support examples in a fixed order with unique ids. Raises DataError for a repeated id."""

    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        if len(self.by_id) != len(self.examples):
            twice = Counter(e.id for e in self.examples).most_common(1)[0][0]
            raise DataError(f"two examples of the pool have the id '{twice}'. IDs must be unique.")

    @cached_property
    def by_id(self) -> Mapping[str, Example]:
        return {example.id: example for example in self.examples}

    @cached_property
    def digest(self) -> str:
        """sha256 of ids, questions, answers, image origins and edits. Opens no file."""
        digest = hashlib.sha256()
        for e in self.examples:
            images = [(p.identity, p.edits) if p.edits else p.identity for p in e.images]
            digest.update(repr((e.id, e.question, e.answers, e.options, e.label, images)).encode())
        return digest.hexdigest()

    @cached_property
    def _id_hashes(self) -> Hashes:
        return id_hashes([example.id for example in self.examples])

    def in_random_order(self, key: StreamKey, factor: str) -> Iterator[Example]:
        """The examples in a uniformly random order. It depends on their ids, not on their places in the pool.

        Adding, removing or moving an example does not change the relative order of the others.
        """
        return (self.examples[i] for i in random_order(key, factor, self._id_hashes))

    def __len__(self) -> int:
        return len(self.examples)


@runtime_checkable
class Task(Protocol):
    """A component of kind `task`: a frozen dataclass that reads data at the first access of `queries`.

    A task whose pool may contain the query's own image sets `pool_shares_images = True`. Such an example is never a
    demonstration of that query. An optional method `facts(demos) -> mapping` adds facts about a set of demonstrations
    to a sample's `meta`, such as whether they determine the answer. Optional attributes: `max_new_tokens`, the length
    limit of answers where the experiment file has none; `warning`, a text that is printed before a run; `notes`,
    sentences about the data, such as rows that are left out, which a plan and a run print; `data_revision`, the commit
    of its data on the hub, which a run stores.
    """

    @property
    def title(self) -> str:
        """The name of the task in tables."""
        ...

    @property
    def queries(self) -> Sequence[Example]:
        """Test items with gold answers, in a fixed order. Raises DataError."""
        ...

    def pool(self, query_id: str) -> Pool:
        """The support pool of a query. Queries that share a pool get the same object."""
        ...

    @property
    def pool_size(self) -> int:
        """Number of examples in the smallest pool. More shots are an error before the run starts."""
        ...


def task_parts(task: Any) -> Iterator[Any]:
    """A task and the tasks that it is made from (`of`, `support`), at any depth."""
    yield task
    for f in fields(task) if is_dataclass(task) else ():
        if hasattr(type(part := getattr(task, f.name)), "pool_size"):
            yield from task_parts(part)


@dataclass(frozen=True, kw_only=True)
class LimitedTask:
    """Base class of tasks of which a part of the queries may be used."""

    query_limit: PositiveInt | None = parameter("queries", None)  # number of queries, a nested choice; None: all
    seed: int = 0  # random seed of choices, orders and divisions, independent of the seeds of a run


class SharedPoolTask:
    """Base class of tasks with one pool for all queries. A subclass makes it in `_pool`, at the first access."""

    @cached_property
    def _pool(self) -> Pool:
        raise NotImplementedError

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return len(self._pool)


class SeveralPoolsTask:
    """Base class of tasks with several pools. Each is made at its first use, by a key such as the query's id."""

    def pool_key(self, query_id: str) -> str | None:
        """The key of a query's pool, or None if the task has no such query."""
        raise NotImplementedError

    def pool_examples(self, key: str) -> Sequence[Example]:
        """The examples of a pool."""
        raise NotImplementedError

    @cached_property
    def _pools(self) -> dict[str, Pool]:
        """The pools that were made so far."""
        return {}

    def pool(self, query_id: str) -> Pool:
        """The pool of a query. Raises DataError if the task has no such query."""
        if (key := self.pool_key(query_id)) is None:
            raise DataError(f"task '{cast('Task', self).title}' has no query '{query_id}'.")
        if key not in self._pools:
            self._pools[key] = Pool(tuple(self.pool_examples(key)))
        return self._pools[key]


FIRST = 256
"""About so many members are sorted first. The others are sorted only if all of these are consumed."""


def id_hashes(ids: Sequence[str]) -> Hashes:
    """A 64-bit hash of each id, [N]."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def mix(numbers: Hashes) -> Hashes:
    """The finalizer of SplitMix64, a bijection of 64-bit numbers in which each bit of the input changes all bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def random_order(key: StreamKey, factor: str, hashes: Hashes) -> Iterator[int]:
    """The positions 0..N-1 of the hashes in a uniformly random order. It depends on the hashes, not on their places.

        number(member) = mix(hash(id) xor key),    key from (seed, query id, factor)

    Members are sorted by these numbers. A new member takes its own place and changes no other (consistent sampling).
    The hashes of ids are computed once per pool, and `mix`, the finalizer of SplitMix64 (Steele et al., OOPSLA 2014),
    once per query and member: 10 ms for a million members.
    """
    numbers = mix(hashes ^ np.uint64(key.number(factor, 64)))
    is_first = numbers <= np.uint64(min(2**64 * FIRST // max(len(hashes), 1), 2**64 - 1))
    for part in (np.flatnonzero(is_first), np.flatnonzero(~is_first)):
        yield from part[np.argsort(numbers[part])].tolist()


# Fixed nested subsets of records: the first 100 of a subset of 500 are the subset of 100.
#
# Each record has a random number from (seed, id, factor), and the records with the smallest numbers are chosen. So
# the choice is independent of other records, of the reading order and of global state. Every arm of a grid has the
# same subset.


def nested_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str) -> list[int]:
    """Positions of the `limit` chosen ids in the order of choice. Without a limit, all positions in their original
    order.
    """
    if limit is None:
        return list(range(len(ids)))
    # `StreamKey.number` for each id, in half the time: the choice is among very many.
    numbers = b"".join([hashlib.sha256(f"{seed}\x1f{name}\x1f{factor}".encode()).digest() for name in ids])
    chosen: list[int] = np.argsort(np.frombuffer(numbers, ">u8")[::4], kind="stable")[:limit].tolist()
    return chosen


def limited_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str, *, key: str, whole: str) -> list[int]:
    """The positions of `nested_choice`, with an error if there are fewer ids than `limit`.

    Args:
        ids: The ids of all records.
        limit: The number of records to choose; None: all.
        seed: Seed of the choice.
        factor: Name of the choice.
        key: The key of the limit in the experiment file.
        whole: What is chosen from, such as "rows of pope[test]".

    Raises:
        DataError: The limit is larger than the number of ids.
    """
    if limit is not None and limit > len(ids):
        raise DataError(
            f"{key}: {limit} is more than the {len(ids):,} {whole}. Use a smaller number, or remove {key} to use all."
        )
    return nested_choice(ids, limit, seed, factor)


def divide_by_group(
    groups: Sequence[str], fraction: float, seed: int, factor: str, name: str
) -> tuple[list[int], list[int]]:
    """Rows of the queries and rows of the pool, so that the two share no group.

    Args:
        groups: The group of each row.
        fraction: The share of the groups that becomes the pool.
        seed: Seed of the draw.
        factor: Name of the draw.
        name: Name of the data in the error.

    Raises:
        DataError: A side has no group, although the fraction gives it some.
    """
    names = sorted(set(groups), key=lambda name: StreamKey(seed, name).number(factor))
    pool = set(names[: round(fraction * len(names))])
    if len(pool) == len(names) or (not pool and fraction > 0):
        raise DataError(
            f"{name} has too few groups of rows ({len(names)}) for both queries and a pool with pool_fraction "
            f"{fraction}. Add rows, set pool_split, or change pool_fraction."
        )
    return (
        [row for row, group in enumerate(groups) if group not in pool],
        [row for row, group in enumerate(groups) if group in pool],
    )


def connected_components(keys: Sequence[Sequence[str]]) -> list[int]:
    """For each row, the first row that it shares a key with, directly or through others, or itself."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, some in enumerate(keys):
        for key in some:
            a, b = root(first.setdefault(key, row)), root(row)
            parent[max(a, b)] = min(a, b)
    return [root(row) for row in range(len(keys))]


def image_digests(*examples: Example | Query) -> frozenset[str]:
    """The images of examples by their unedited pixels: neither another file nor an edit makes another image."""
    return frozenset(image.source_digest for example in examples for image in example.images)


def check_no_shared_image(
    examples: Iterable[Example], queries: Sequence[Example], where: str, names: tuple[str, str], advice: str
) -> None:
    """Checks that no query has an image of the examples, which chose or trained something that the queries judge.

    Args:
        examples: The examples on one side.
        queries: The queries on the other side.
        where: The place in the file.
        names: What the error calls the queries and the examples.
        advice: What to do.

    Raises:
        DataError: A query has an image of an example, compared by `image_digests`.
    """
    owners = {digest: example.id for example in examples for digest in image_digests(example)}
    shared = [(one.id, owners[digest]) for one in queries for digest in image_digests(one) if digest in owners]
    if shared:
        raise DataError(
            f"{where}: {len({query for query, _ in shared})} of {len(queries)} {names[0]} have an image of {names[1]}; "
            f"'{shared[0][0]}' and '{shared[0][1]}' have the same image, edits aside. {advice}"
        )


class AlteredTask:
    """Base class of tasks that change another task's examples one by one. Pools stay shared."""

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
