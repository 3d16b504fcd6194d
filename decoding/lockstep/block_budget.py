"""Whether slots and KV cache blocks suffice for a whole group in addition to what admitted groups still need."""

from collections.abc import Iterable
from typing import Any

from vllm.v1.request import Request, RequestStatus

from decoding.lockstep.request_group import RequestGroup, scheduled_length


class BlockBudget:
    """The free slots and blocks of one scheduler. It is computed once in a step and reduced as requests enter."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.remaining: tuple[int, int] | None = None  # slots and blocks

    def new_step(self) -> None:
        self.remaining = None

    def try_reserve(self, requests: Iterable[Request], admitted: Iterable[RequestGroup]) -> bool:
        """Reserves slots and blocks for all of these requests. False if they do not suffice."""
        if self.remaining is None:
            admitted_requests = [request for group in admitted for request in group.requests]
            slots = len(self.scheduler.running) + sum(r.status != RequestStatus.RUNNING for r in admitted_requests)
            self.remaining = (
                self.scheduler.max_num_active_reqs - slots,
                self.free_blocks() - self.missing_blocks(admitted_requests),
            )
        newcomers = list(requests)
        slots, blocks = self.remaining[0] - len(newcomers), self.remaining[1] - self.missing_blocks(newcomers)
        if slots < 0 or blocks < 0:
            return False
        self.remaining = slots, blocks
        return True

    def free_blocks(self) -> int:
        """Blocks that no request uses. Cached blocks that vLLM can evict count as free."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def missing_blocks(self, requests: Iterable[Request]) -> int:
        """Blocks that these requests lack to store all their tokens, without hits in the prefix cache."""
        manager = self.scheduler.kv_cache_manager
        total = 0
        for request in requests:
            tokens = min(scheduled_length(request), self.scheduler.max_model_len)
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

    def too_small_message(self, group: RequestGroup) -> str:
        """Message for a group that does not fit even alone."""
        size, available = self.scheduler.block_size, self.scheduler.kv_cache_config.num_blocks - 1
        required = sum(-(-request.num_tokens // size) for request in group.requests)
        return (
            f"its {group.size} branches need {required} blocks of {size} tokens together, and the cache of this engine "
            f"has {available}. {group.size} branches of {available // group.size * size} tokens each fit, prompt and "
            "answer: shorten the prompts, or give it a larger cache"
        )
