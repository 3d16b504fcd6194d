"""Random streams keyed by seed, query and factor.

Every random choice of the toolkit uses `stream(seed, query_id, factor)`, a new generator that depends on these three
keys alone. A choice is therefore the same for any batch size, order of queries and number of workers, and after a
resume. Two factors, such as `demos` and `order`, never share numbers.

A choice among named things, such as examples or answers, uses `StreamKey.order`: each name draws its own number. So a
choice depends neither on the order of the names nor on names that are not chosen.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from icl import np, torch

DRAWS = 2
"""The version of all random choices. It is a part of every cell's digest. (1: choices by place in the pool.)"""


@dataclass(frozen=True)
class StreamKey:
    """The seed of a cell and the id of a query. Methods take the factor, which names the random choice."""

    seed: int = 0
    query: str = ""

    def number(self, factor: str, bits: int = 64) -> int:
        """A random integer of `bits` bits, at most 256."""
        digest = hashlib.sha256(f"{self.seed}\x1f{self.query}\x1f{factor}".encode()).digest()
        return int.from_bytes(digest, "big") >> (256 - bits)

    def numpy(self, factor: str) -> "np.random.Generator":
        return np.random.Generator(np.random.Philox(key=self.number(factor, 128)))

    def order(self, factor: str, names: Sequence[str]) -> list[int]:
        """The positions of the names in a uniformly random order, as the order of the numbers that the names draw.

        Adding, removing or moving a name does not change the relative order of the others. Equal names keep their
        order.
        """
        return sorted(range(len(names)), key=[self.number(f"{factor}\x1f{name}") for name in names].__getitem__)

    def torch(self, factor: str) -> "torch.Generator":
        """A CPU generator. Numbers are drawn on the CPU and then moved, so they do not depend on the device."""
        return torch.Generator().manual_seed(self.number(factor, 63))


def stream(seed: int, query_id: str, factor: str) -> "np.random.Generator":
    """The numpy generator of one random choice."""
    return StreamKey(seed, query_id).numpy(factor)
