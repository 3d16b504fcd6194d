"""Random orders of many examples, keyed by their ids (`Pool.in_random_order`).

    number(member) = mix(hash(id) xor key),    key from (seed, query id, factor)

The order is that of the numbers: a uniformly random order for each query. A new member takes its own place and changes
no other (consistent sampling). The hashes of ids are computed once per pool, and `mix`, the finalizer of SplitMix64
(Steele et al., OOPSLA 2014), once per query and member: 10 ms for a million members.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from icl.streams import StreamKey

Hashes = NDArray[np.uint64]

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
    """The positions 0..N-1 of the hashes in a uniformly random order. It depends on the hashes, not on their places."""
    numbers = mix(hashes ^ np.uint64(key.number(factor, 64)))
    is_first = numbers <= np.uint64(min(2**64 * FIRST // max(len(hashes), 1), 2**64 - 1))
    for part in (np.flatnonzero(is_first), np.flatnonzero(~is_first)):
        yield from part[np.argsort(numbers[part])].tolist()
