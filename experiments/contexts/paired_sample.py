"""Pair each sample with another one, for controls that read another sample's prompt.

The queries of a task form a ring, ordered by a number that each draws from its own random stream. The partner of a
query is the next one in the ring. If queries have groups (such as questions about one image), it is the next one of
another group. So the pairs depend on the seed and the ids alone, and not on batches or resuming.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from icl.streams import StreamKey
from icl.types import Example

FACTOR = "other sample"


def paired_samples(queries: Sequence[Example], chosen: Sequence[Example], seed: int) -> list[Example | None]:
    """For each of the chosen queries its partner among all queries; None if there is none."""
    by_id = {query.id: query for query in queries}
    ring = _ring(tuple(by_id), seed)
    index = {name: i for i, name in enumerate(ring)}
    return [_partner(by_id[query.id], (by_id[name] for name in _after(ring, index[query.id]))) for query in chosen]


@lru_cache(8)
def _ring(names: tuple[str, ...], seed: int) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (StreamKey(seed, name).number(FACTOR), name)))


def _after(ring: Sequence[str], index: int) -> Iterator[str]:
    return (ring[(index + step) % len(ring)] for step in range(1, len(ring)))


def _partner(query: Example, candidates: Iterable[Example]) -> Example | None:
    return next((other for other in candidates if query.group is None or other.group != query.group), None)
