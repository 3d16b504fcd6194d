"""Base classes of the generated tasks: numbered queries and small random choices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeVar

import numpy as np

from icl import ConfigError, DataError, Example, GeneratedCount, Pool, SharedPoolTask, StreamKey, parameter

T = TypeVar("T")
Split = Literal["query", "pool"]


@dataclass(frozen=True, kw_only=True)
class NumberedTask(SharedPoolTask):
    """Base class of tasks with examples by split and number, each from its own stream."""

    called: ClassVar[str]  # prefix of ids
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    support: GeneratedCount = parameter("pool_size", 100)  # number of examples in the pool
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def example(self, split: Split, number: int, name: str) -> Example:
        """The example with this number and id."""
        raise NotImplementedError

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self.example("query", i, query_id(self.called, i)) for i in range(self.query_limit))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self.example("pool", i, f"{self.called}-pool-{i:05d}") for i in range(self.support)))

    @property
    def pool_size(self) -> int:
        return self.support


@dataclass(frozen=True)
class BankTask:
    """Base class of tasks with a pool for each query, drawn from a shared bank."""

    support: GeneratedCount = 32  # images in a query's pool, from the bank
    bank: GeneratedCount = 256  # images in the bank of all pools
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if self.support > self.bank:
            raise ConfigError(f"support {self.support} is more than the bank of {self.bank} images.")

    @property
    def pool_size(self) -> int:
        return self.support


def query_id(task: str, number: int) -> str:
    """The id of a query. It is the same for every parameter of the task, so variants are paired by query."""
    return f"{task}-{number:05d}"


def query_number(task: str, name: str, queries: int) -> int:
    """The number in a query id. Raises DataError if the task has no such query."""
    match = re.fullmatch(rf"{re.escape(task)}-(\d+)", name)
    if match is None or int(match[1]) >= queries:
        raise DataError(
            f"task '{task}' has no query '{name}': it has {query_id(task, 0)} to {query_id(task, queries - 1)}."
        )
    return int(match[1])


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """A random permutation of the items."""
    return [items[int(i)] for i in rng.permutation(len(items))]


def choice(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, uniformly."""
    return items[int(rng.integers(len(items)))]


def balanced_choice(seed: int, factor: str, number: int, items: Sequence[T]) -> T:
    """The item with this number in a sequence in which every block of len(items) numbers contains each item once.

    So the items are balanced, a longer list begins with the shorter one, and a number does not reveal its item.
    """
    block, place = divmod(number, len(items))
    return shuffled(StreamKey(seed, f"block-{block}").numpy(factor), items)[place]
