"""Slots and cache blocks: what a request still needs, and whether a whole group fits beside what was promised."""

from collections.abc import Iterable
from typing import Any

from vllm.v1.request import Request, RequestStatus

from decoding.lockstep.request_group import RequestGroup


class BlockBudget:
    """Counts by the cache manager of one scheduler. A step's balance is made once and drawn down as requests enter."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.balance: tuple[int, int] | None = None

    def new_step(self) -> None:
        self.balance = None

    def take(self, requests: Iterable[Request], admitted: Iterable[RequestGroup]) -> bool:
        """Whether slots and blocks suffice for all of these; if so they are theirs."""
        if self.balance is None:
            promised = [r for gang in admitted for r in gang.requests]
            slots = len(self.scheduler.running) + sum(r.status != RequestStatus.RUNNING for r in promised)
            self.balance = self.scheduler.max_num_active_reqs - slots, self.free() - self.needed(promised)
        wanted = list(requests)
        slots, blocks = self.balance[0] - len(wanted), self.balance[1] - self.needed(wanted)
        if slots < 0 or blocks < 0:
            return False
        self.balance = slots, blocks
        return True

    def free(self) -> int:
        """Blocks that nobody holds; cached ones that could be given up count as free."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def needed(self, requests: Iterable[Request]) -> int:
        """Blocks that these still need to hold all their tokens, hits in the prefix cache not counted."""
        manager = self.scheduler.kv_cache_manager
        total = 0
        for request in requests:
            tokens = min(request.num_tokens, self.scheduler.max_model_len)
            total += manager.coordinator.get_num_blocks_to_allocate(
                request_id=request.request_id,
                num_tokens=tokens,
                new_computed_blocks=manager.empty_kv_cache_blocks.blocks,
                num_encoder_tokens=0,
                total_computed_tokens=request.num_computed_tokens,
                num_local_computed_tokens=request.num_computed_tokens,
                num_tokens_main_model=tokens,
            )
        return total

    def too_small(self, gang: RequestGroup) -> str:
        """The sentence for a group that does not fit even alone."""
        size, have = self.scheduler.block_size, self.scheduler.kv_cache_config.num_blocks - 1
        wanted = sum(-(-request.num_tokens // size) for request in gang.requests)
        return (
            f"its {gang.size} branches need {wanted} blocks of {size} tokens together, and the cache of this engine "
            f"has {have}. {gang.size} branches of {have // gang.size * size} tokens each fit, prompt and answer: "
            "shorten the prompts, or give it a larger cache"
        )
