"""Random sampling without replacement, one at a time: the first k numbers are the same for every k."""

from collections.abc import Iterator

import numpy as np

BLOCK = 64
"""Numbers per call of the generator. It is fixed, so the sequence does not depend on how many are consumed."""

MAX_PERMUTATION = 1024
"""Up to this size the whole permutation is computed."""


def random_order(rng: np.random.Generator, size: int) -> Iterator[int]:
    """The numbers 0..size-1 in a uniformly random order. The cost grows with the numbers consumed, not with `size`."""
    if size <= MAX_PERMUTATION:
        yield from rng.permutation(size).tolist()
        return
    used: set[int] = set()
    while len(used) < size:
        for number in rng.integers(size, size=BLOCK).tolist():
            if number not in used:
                used.add(number)
                yield number
