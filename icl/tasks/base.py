"""What a task is: queries, and for each query the support pool that demonstrations may come from.

Most tasks have one pool for all queries. Episodic tasks (made-up names redrawn for every query) have one for each.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from icl.errors import DataError
from icl.types import Example


@dataclass(frozen=True, eq=False)
class Pool:
    """The support examples in a fixed order; ids are unique. Raises DataError where they are not."""

    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        if len(self.by_id) != len(self.examples):
            twice = Counter(e.id for e in self.examples).most_common(1)[0][0]
            raise DataError(f"two examples of the pool have the id '{twice}'. Ids must be unique.")

    @cached_property
    def by_id(self) -> Mapping[str, Example]:
        return {example.id: example for example in self.examples}

    @cached_property
    def digest(self) -> str:
        """sha256 of ids, questions, answers, where the images come from and their edits: cheap, no file is opened."""
        digest = hashlib.sha256()
        for e in self.examples:
            images = [(p.identity, p.edits) if p.edits else p.identity for p in e.images]
            digest.update(repr((e.id, e.question, e.answers, e.options, e.label, images)).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.examples)


@runtime_checkable
class Task(Protocol):
    """A component of kind `task`: a frozen dataclass; reading data waits for the first access of `queries`.

    One whose pool may hold the query's own image says `pool_shares_images = True`; it is never shown with it.
    One that can tell something of a set of demonstrations (do they settle the question?) has `facts(demos) -> mapping`:
    what a sample's `meta` says beside the example's.
    """

    @property
    def title(self) -> str:
        """What a table calls it."""
        ...

    @property
    def queries(self) -> Sequence[Example]:
        """Test items with their gold, in a fixed order. Raises DataError."""
        ...

    def pool(self, query_id: str) -> Pool:
        """Where this query's demonstrations come from. The same object for all queries that share it."""
        ...

    @property
    def pool_size(self) -> int:
        """The number of examples in the smallest pool: more shots are an error before anything runs."""
        ...
