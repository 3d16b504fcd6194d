"""Where all prompts of one request run: with which adapter, and in which of a server's engines.

With `--data-parallel-size` vLLM's front end distributes single requests over engines, so the branches of a group would
never meet. A request with a strategy therefore names its engine (vLLM's `data_parallel_rank`): the one with the fewest
branches of such requests. vLLM distributes ordinary requests, and its load balancer counts the branches too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """Adapter and engine of one request.

    Attributes:
        adapter: vLLM's LoRA request, None for the base model.
        rank: Index of the engine, None if there is only one.
    """

    adapter: Any = None
    rank: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For `generate` of vLLM's client."""
        return {"lora_request": self.adapter, "data_parallel_rank": self.rank}


class EngineBalancer:
    """Number of branches in each engine of a server. It gives each new request the engine with the fewest."""

    def __init__(self, engines: int) -> None:
        self.branches = [0] * engines
        self.last_rank = 0

    @property
    def has_several(self) -> bool:
        return len(self.branches) > 1

    @contextmanager
    def place(self, branches: int, adapter: Any = None) -> Iterator[Placement]:
        """A placement for a request, which counts for as long as the block runs. Equal engines take turns."""
        if not self.has_several:
            yield Placement(adapter)
            return
        count = len(self.branches)
        rank = min(range(count), key=lambda r: (self.branches[r], (r - self.last_rank - 1) % count))
        self.branches[rank] += branches
        self.last_rank = rank
        try:
            yield Placement(adapter, rank)
        finally:
            self.branches[rank] -= branches
