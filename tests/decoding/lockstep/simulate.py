"""vLLM's scheduler without a model: random requests, a tiny cache, and tokens that only complete groups share."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, MambaSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from decoding.formulas.sampling import Greedy
from decoding.lockstep.request_metadata import BranchMetadata, parse_branch, serialize
from decoding.lockstep.scheduler import AsyncLockstepScheduler, LockstepScheduler
from decoding.lockstep.token_selection import BatchRow, complete_groups
from decoding.strategies.vcd import VCD

BLOCK = 16
ARM = serialize(VCD(), Greedy())
STOP = 7


SCHEDULERS = {1: LockstepScheduler, 2: AsyncLockstepScheduler}
"""Scheduler class, by the number of steps in flight."""


def config(
    folder: Path, budget: int, sequences: int, prefix: bool, *, patience: float = 60.0, steps_in_flight: int = 1
) -> Any:
    made = EngineArgs(
        str(folder), dtype="float32", max_model_len=512, max_num_batched_tokens=budget, max_num_seqs=sequences,
        enable_prefix_caching=prefix, block_size=BLOCK, enforce_eager=True, skip_tokenizer_init=True,
        limit_mm_per_prompt={"image": 0, "video": 0}, async_scheduling=False,
        scheduler_cls=SCHEDULERS[steps_in_flight], additional_config={"lockstep_patience": patience},
    ).create_engine_config()  # fmt: skip
    made.scheduler_config.async_scheduling = steps_in_flight > 1  # vLLM's arguments allow that on a GPU only
    return made


def scheduler(engine: Any, blocks: int, kind: type[Any] | None = None, *, recurrent: bool = False) -> Any:
    kind = kind or engine.scheduler_config.scheduler_cls
    engine.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    layers = [KVCacheGroupSpec(["layer"], spec)]
    if recurrent:
        engine.cache_config.mamba_cache_mode = "align"
        state = MambaSpec(block_size=BLOCK, shapes=((4, 8),), dtypes=(torch.float32,), mamba_cache_mode="align")
        layers.append(KVCacheGroupSpec(["recurrent layer"], state))
    cache = KVCacheConfig(blocks, [], layers)
    return kind(engine, cache, StructuredOutputManager(engine), BLOCK, log_stats=False)


@dataclass
class World:
    """Requests in a scheduler, their tokens and their ends.

    An asynchronous scheduler plans a step before it gets the tokens of the step before, as in vLLM's engine.

    Attributes:
        stop_rate: Probability that a token ends its group.
        whole: Groups that sampled in the last step.
        meddle: Changes the tokens of a step: index of the row -> token.
    """

    scheduler: Any
    draw: random.Random
    tokens: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    steps: int = 0
    stop_rate: float = 0.05
    meddle: Callable[[dict[int, int], list[str]], dict[int, int]] = lambda own, ids: own
    whole: list[str] = field(default_factory=list)
    in_flight: deque[tuple[Any, ModelRunnerOutput]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK, sha256)

    def add(self, name: str, length: int, tokens: int, branch: BranchMetadata | None = None, shared: int = 0) -> None:
        prompt = [11] * min(shared, length) + [self.draw.randrange(100, 900) for _ in range(max(length - shared, 0))]
        extra = branch.extra_args() if branch else None
        params = SamplingParams(
            temperature=0, max_tokens=tokens, extra_args=extra, stop_token_ids=[STOP], ignore_eos=True
        )
        params.update_from_generation_config({}, None)
        self.tokens[name] = []
        self.scheduler.add_request(Request(name, prompt, params, None, block_hasher=self.hasher))

    def group(self, name: str, lengths: list[int], tokens: int, shared: int = 0) -> None:
        self.members[name] = [f"{name}.{b}" for b in range(len(lengths))]
        for b, length in enumerate(lengths):
            self.add(f"{name}.{b}", length, tokens, BranchMetadata(name, b, len(lengths), ARM), shared)

    def step(self) -> None:
        self.steps += 1
        before = {r.request_id for r in self.scheduler.running}
        output = self.scheduler.schedule()
        resumed = output.scheduled_cached_reqs.resumed_req_ids
        # The runner still holds the requests of the last step, so it cannot resume one of them as new.
        assert not (resumed & before & set(output.num_scheduled_tokens))
        for group in getattr(self.scheduler, "sampling", ()) if output.num_scheduled_tokens else ():
            scheduled = {output.num_scheduled_tokens.get(r.request_id) for r in group.requests}
            # None: vLLM knows that the step in flight brings the last token that the group may have.
            assert scheduled == {1} or (scheduled == {None} and self.in_flight), group.name
        if output.total_num_scheduled_tokens or not self.in_flight:
            self.in_flight.append((output, self.sampled(output)))
            if output.total_num_scheduled_tokens and len(self.in_flight) < self.steps_in_flight:
                return
        for batch in self.scheduler.update_from_output(*self.in_flight.popleft()).values():
            for one in batch.outputs:
                self.tokens[one.request_id] += one.new_token_ids
                if one.finish_reason is not None:
                    self.ends[one.request_id] = str(one.finish_reason), one.stop_reason

    @property
    def steps_in_flight(self) -> int:
        return 2 if self.scheduler.scheduler_config.async_scheduling else 1

    def sampled(self, output: Any) -> ModelRunnerOutput:
        """The tokens that a model runner samples in a step."""
        ids = list(output.num_scheduled_tokens)
        rows, own = [], {}
        for i, request_id in enumerate(ids):
            request = self.scheduler.requests[request_id]
            if request.is_prefill_chunk:
                continue
            branch = parse_branch(request.sampling_params.extra_args)
            own[i] = self.draw.randrange(20, 90)
            if branch is not None:
                rows.append(BatchRow(i, branch, request.num_computed_tokens - request.num_prompt_tokens))
        self.whole = [together[0].branch.group for together in complete_groups(rows)]
        for together in complete_groups(rows):
            token = STOP if self.draw.random() < self.stop_rate else self.draw.randrange(20, 90)
            own |= {row.index: token for row in together}
        own = self.meddle(own, ids)
        tokens = [[own[i]] if i in own else [] for i in range(len(ids))]
        return ModelRunnerOutput(ids, {r: i for i, r in enumerate(ids)}, tokens)

    def run(self, max_steps: int = 5000) -> None:
        while self.scheduler.has_unfinished_requests() or self.in_flight:
            self.step()
            assert self.steps < max_steps, (
                f"no end after {max_steps} steps: {[r.request_id for r in self.scheduler.running]}"
            )
