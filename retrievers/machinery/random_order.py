"""Drawing without replacement, one at a time: the first k draws are the same for every k."""

from collections.abc import Iterator

import numpy as np

BLOCK = 64
"""Numbers taken from the generator at a time. Fixed, so that the sequence does not depend on how many are used."""

WHOLE = 1024
"""Up to this size the whole permutation is drawn."""


def random_order(rng: np.random.Generator, size: int) -> Iterator[int]:
    """0..size-1 in a uniformly random order, each once. Costs what is consumed, not `size`."""
    if size <= WHOLE:
        yield from rng.permutation(size).tolist()
        return
    seen: set[int] = set()
    while len(seen) < size:
        for number in rng.integers(size, size=BLOCK).tolist():
            if number not in seen:
                seen.add(number)
                yield number
