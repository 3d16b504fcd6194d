"""Which other sample a sample is shown beside: for controls that read another sample's prompt.

The queries of a task stand in a ring, ordered by a number that each draws from its own stream, and the other of a query
is the next one in the ring, or the next of another group where queries have groups (questions about one image would
not be another image). So it is a function of the seed and of the two queries' ids, the same for any batch and resume.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from icl.streams import StreamKey
from icl.types import Example

FACTOR = "other sample"


def paired_samples(queries: Sequence[Example], chosen: Sequence[Example], seed: int) -> list[Example | None]:
    """For each of the chosen queries its other among all; None where there is none."""
    by_id = {query.id: query for query in queries}
    ring = _ring(tuple(by_id), seed)
    place = {name: i for i, name in enumerate(ring)}
    return [_next(by_id[query.id], (by_id[name] for name in _from(ring, place[query.id]))) for query in chosen]


@lru_cache(8)
def _ring(names: tuple[str, ...], seed: int) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (StreamKey(seed, name).number(FACTOR), name)))


def _from(ring: Sequence[str], place: int) -> Iterator[str]:
    return (ring[(place + step) % len(ring)] for step in range(1, len(ring)))


def _next(query: Example, following: Iterable[Example]) -> Example | None:
    return next((one for one in following if query.group is None or one.group != query.group), None)
