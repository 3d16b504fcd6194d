"""Random streams that belong to the query, not to the hardware.

Every random choice of the toolkit is drawn from `stream(seed, query_id, factor)`: a fresh generator that depends on
nothing but its three keys. So a choice is the same for any batch size, order of queries, number of workers, and after
a resume; and two factors (say `demos` and `order`) never share numbers.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StreamKey:
    """Whose randomness: the seed of the cell and the id of the query. A factor names the choice."""

    seed: int = 0
    query: str = ""

    def number(self, factor: str, bits: int = 64) -> int:
        """A number of `bits` bits (at most 256), uniform over keys and factors."""
        digest = hashlib.sha256(f"{self.seed}\x1f{self.query}\x1f{factor}".encode()).digest()
        return int.from_bytes(digest, "big") >> (256 - bits)

    def numpy(self, factor: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.number(factor, 128)))

    def torch(self, factor: str) -> "torch.Generator":
        """A CPU generator: numbers are drawn on the CPU and moved, so that they do not depend on the device."""
        import torch

        return torch.Generator().manual_seed(self.number(factor, 63))


def stream(seed: int, query_id: str, factor: str) -> np.random.Generator:
    """The numpy generator of one choice."""
    return StreamKey(seed, query_id).numpy(factor)
