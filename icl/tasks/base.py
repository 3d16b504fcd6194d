"""The base protocol of tasks. A task has queries, and a support pool of possible demonstrations for each query.

Most tasks share one pool among all queries. Episodic tasks, which draw new names for every query, have one pool each.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from icl.errors import DataError
from icl.streams import StreamKey
from icl.types import Example

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
    limit of answers where the experiment file has none; `warning`, a text that is printed before a run.
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


class SharedPoolTask:
    """Base class of tasks whose queries share one pool. A subclass makes it in `_pool`, at the first access."""

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

    def pool_examples(self, key: str) -> Sequence[Example]:
        """The examples of a pool."""
        raise NotImplementedError

    @cached_property
    def _pools(self) -> dict[str, Pool]:
        """The pools that were made so far."""
        return {}

    def _pool_of(self, key: str) -> Pool:
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

    The order is that of the numbers. A new member takes its own place and changes no other (consistent sampling). The
    hashes of ids are computed once per pool, and `mix`, the finalizer of SplitMix64 (Steele et al., OOPSLA 2014), once
    per query and member: 10 ms for a million members.
    """
    numbers = mix(hashes ^ np.uint64(key.number(factor, 64)))
    is_first = numbers <= np.uint64(min(2**64 * FIRST // max(len(hashes), 1), 2**64 - 1))
    for part in (np.flatnonzero(is_first), np.flatnonzero(~is_first)):
        yield from part[np.argsort(numbers[part])].tolist()
