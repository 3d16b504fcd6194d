"""Where the prompts of one request run, all of them: with which adapter, and in which of a server's engines.

With `--data-parallel-size` vLLM's front end spreads requests over engines one by one, and the branches of a group would
never meet. So a request with a strategy names its engine (vLLM's `data_parallel_rank`): the one with the fewest
branches of such requests. Ordinary requests are spread by vLLM, whose own balance counts ours too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """adapter: vLLM's request for a LoRA; None: the base. rank: of the engine; None where there is one."""

    adapter: Any = None
    rank: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For `generate` of vLLM's client."""
        return {"lora_request": self.adapter, "data_parallel_rank": self.rank}


class EngineBalancer:
    """The engines of one server process."""

    def __init__(self, engines: int) -> None:
        self.busy = [0] * engines
        self.last = 0

    @property
    def several(self) -> bool:
        return len(self.busy) > 1

    @contextmanager
    def taken(self, branches: int, adapter: Any = None) -> Iterator[Placement]:
        """A seat for so many branches, for as long as the block runs. Of engines as busy, the next one in turn."""
        if not self.several:
            yield Placement(adapter)
            return
        count = len(self.busy)
        rank = min(range(count), key=lambda r: (self.busy[r], (r - self.last - 1) % count))
        self.busy[rank] += branches
        self.last = rank
        try:
            yield Placement(adapter, rank)
        finally:
            self.busy[rank] -= branches
