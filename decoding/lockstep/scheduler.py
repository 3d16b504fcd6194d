"""vLLM's scheduler, extended so that the branches of a group sample in the same step.

The scheduler aligns the steps. `token_selection.py` chooses the token that all branches of a group sample. After each
step the scheduler compares their tokens. If the branches of a group differ, the group ends with an error.

vLLM alone advances each request as soon as it can. A branch with a short prompt, a hit in the prefix cache or a spare
block would sample before the other branches of its group. Three rules, added around vLLM's own `schedule`, prevent it:

1. Wait for the group. A branch computes its prompt except for the last token, and waits. Once all branches wait and the
   token budget suffices for all of them, the group *samples*: each branch computes its last token in the same batch.
   Groups that sampled longest ago go first. If they lack blocks, the scheduler preempts from the end of `running`, if
   necessary also groups that it has selected to sample.
2. Admit whole groups. A group leaves the waiting queue when all its branches have arrived, and request slots and blocks
   suffice for all of them in addition to what admitted groups still need. If a group or request does not fit,
   everything behind it in the queue waits too.
3. Preempt and end whole groups. If one branch is preempted, all are. If one branch ends, is aborted or fails, all end.

An example with two groups of two branches. A step computes at most 16 tokens, and the cache has 4 blocks of 16 tokens.
Each entry is the number of tokens that are computed in a step:

    step                      1    2    3    4    5    6    7    8    9
    g.0  prompt of 5 tokens   4    1*   1*   1*   1*   1*                   *  its group samples
    g.1  prompt of 13         12   1*   1*   1*   1*   1*                   .  queued, or waits for its group
    h.0  prompt of 6          .    5    .    1*   1*   P    7    .    1*    P  preempted
    h.1  prompt of 14         .    9    4    1*   1*   P    9    6    1*

In step 6, g.1 needs a second block for its token 17 and none is free, so h, last in `running`, is preempted whole. h is
admitted again when g has ended. It then computes its 8 and 16 tokens again, except for the last token of each branch.

Where to change what:

    arrival of a branch, errors at arrival        add_request
    which groups sample in a step                 _select_sampling_groups, RequestGroup.can_sample
    when a group leaves the waiting queue         _handle_blocked_waiting_request, BlockBudget
    how far a waiting branch is computed          _reserve_prefill_lookahead
    which group is preempted                      _select_sampling_groups, _resolve_stall
    how a whole group is preempted                _preempt_group, _preempt_request (vLLM preempts a single branch)
    nothing can be scheduled                      _resolve_stall
    when a group ends, status of its branches     RequestGroup.check_end
    outputs of the branches that a group ends     _finish_group
"""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import FCFSRequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from decoding.lockstep import MISSING_BRANCH_TIMEOUT_S, RECORD_STORE, additional_config, check_engine, parse_branch

logger = init_logger(__name__)

IDLE_SECONDS = 0.001
"""Sleep when only a missing branch can change anything. The engine's loop runs without pause while requests exist."""


if TYPE_CHECKING:

    class VLLMScheduler(Scheduler):  # type: ignore[misc]
        """Either of vLLM's schedulers."""
else:
    VLLMScheduler = object


@dataclass(eq=False)
class RequestGroup:
    """The requests of one group: one for each branch of a strategy.

    Attributes:
        name: Unique name of the group.
        size: Number of branches.
        created: Time at which the first branch arrived, by the monotonic clock.
        members: Index of a branch -> its request.
        is_admitted: Whether slots and blocks are reserved for all branches, so that they may leave the waiting queue.
        last_sampled: Number of the step in which the group sampled last.
        final_status: How the group ends, None while it goes on. It is set once.
        reason: Message for the user if the group fails.
    """

    name: str
    size: int
    created: float = field(default_factory=time.monotonic)
    members: dict[int, Any] = field(default_factory=dict)
    is_admitted: bool = False
    last_sampled: int = 0
    final_status: RequestStatus | None = None
    reason: str | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.members) == self.size

    @property
    def requests(self) -> list[Request]:
        return [self.members[i] for i in sorted(self.members)]

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if request.status == RequestStatus.RUNNING]

    @property
    def can_sample(self) -> bool:
        """Whether each branch runs and has one token left to compute, which gives the logits to sample from."""
        return self.final_status is None and all(
            r.status == RequestStatus.RUNNING and lacks_one_token(r) for r in self.members.values()
        )

    def end(self, status: RequestStatus, reason: str | None = None) -> None:
        if self.final_status is None:
            self.final_status, self.reason = status, reason
            if reason:
                logger.warning("lockstep group %s ends: %s", self.name, reason)

    def fail(self, reason: str) -> None:
        self.end(RequestStatus.FINISHED_ERROR, reason)

    def check_end(self, missing_branch_timeout_s: float) -> None:
        """Ends the group if one branch has ended, or if a branch is missing after the timeout.

        If one branch has stopped or reached its length limit, the others end with the same status. After any other end,
        such as an abort, they end as aborted, without a reason. If a branch is missing, the others end with an error.
        """
        status = next((r.status for r in self.members.values() if r.is_finished()), None)
        if status is not None:
            self.end(status if status in REGULAR_ENDS else RequestStatus.FINISHED_ABORTED)
        elif not self.is_complete and time.monotonic() - self.created > missing_branch_timeout_s:
            arrived = f"{len(self.members)} of {self.size} branches arrived within {missing_branch_timeout_s:g} s"
            self.fail(f"{arrived}: {sorted(self.members)}")


class CheckedScheduler(VLLMScheduler):
    """A check of the configuration, and an end with the parent process, as a mixin of one of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_engine(self.vllm_config)
        exit_with_parent()


class PlainScheduler(CheckedScheduler, Scheduler):  # type: ignore[misc]
    """vLLM's own rules, for an engine whose prompts decode alone: no strategy of its run has a second branch."""


class AsyncPlainScheduler(CheckedScheduler, AsyncScheduler):  # type: ignore[misc]
    """As `PlainScheduler`. It plans a step while the step before runs (`async_scheduling`)."""


class GroupRules(CheckedScheduler):
    """The rules for request groups, as a mixin of one of vLLM's schedulers.

    Ordinary requests are scheduled as usual, in order with the groups.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = additional_config(self.vllm_config)
        self.missing_branch_timeout_s = float(config.get("lockstep_patience", MISSING_BRANCH_TIMEOUT_S))
        self.waiting = StoppableQueue()
        self.block_budget = BlockBudget(self)
        self.groups: dict[str, RequestGroup] = {}
        self.group_of_request: dict[str, RequestGroup] = {}
        self.counts: Counter[str] = Counter()
        # Subsets of the groups, so that a step does not examine groups that only wait:
        self.admitted: dict[RequestGroup, None] = {}
        self.maybe_ended: dict[RequestGroup, None] = {}  # incomplete, or one branch has ended
        self.partly_preempted: dict[RequestGroup, None] = {}  # vLLM preempted a branch
        # Of the current step:
        self.sampling: dict[RequestGroup, None] = {}
        self.just_preempted: set[str] = set()  # the model runner cannot resume them in the same step

    # Arrival and end

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        params = request.sampling_params
        branch = parse_branch(params.extra_args) if params is not None else None
        if branch is None:
            return
        name = branch.group
        existing = self.groups.get(name)
        conflicts = existing is not None and (branch.count != existing.size or branch.index in existing.members)
        if conflicts:
            name = f"{name} ({request.request_id})"  # a group of its own, so that only this request ends
        group = self.groups.setdefault(name, RequestGroup(name, branch.count))
        group.members[branch.index] = request
        self.group_of_request[request.request_id] = group
        limit = min(self.max_num_active_reqs, self.max_num_scheduled_tokens)
        if conflicts:
            group.fail(f"group {branch.group} has its branch {branch.index} already, or another number of branches")
        elif group.size > 1 and request.num_tokens < 2:
            group.fail("a prompt of one token cannot wait for the other branches before it samples")
        elif group.size > limit:
            group.fail(f"{group.size} branches in an engine that runs {limit} requests at once")
        self.maybe_ended[group] = None
        group.check_end(self.missing_branch_timeout_s)  # a branch may have been aborted before the last one arrived
        if group.is_complete and group.final_status is None:
            del self.maybe_ended[group]
            if not self.waiting.ends_with(group.requests):
                self.waiting.remove_requests(group.requests)  # adjacent, so that they are admitted in one scan
                for member in group.requests:
                    self.waiting.add_request(member)

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> list[Request]:
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        groups = (self.group_of_request.get(request.request_id) for request in finished)
        self.maybe_ended.update(dict.fromkeys(filter(None, groups)))
        return finished

    # One step

    def schedule(self, throttle_prefills: bool = False) -> Any:
        self.just_preempted.clear()
        self.block_budget.new_step()
        for group in self.maybe_ended:
            group.check_end(self.missing_branch_timeout_s)
        for group in list(self.partly_preempted):
            self._preempt_group(group)
            self.counts["partly preempted"] += 1
        self.partly_preempted.clear()
        self._select_sampling_groups()
        if self.sampling:
            # Sampling groups go to the front, because vLLM serves `running` in order and preempts from its end.
            self.running.sort(key=lambda r: self.group_of_request.get(r.request_id) not in self.sampling)
        output = super().schedule(throttle_prefills)
        self.waiting.is_scan_stopped = False
        self.counts["encoder inputs"] += sum(map(len, output.scheduled_encoder_inputs.values()))
        if output.total_num_scheduled_tokens == 0 and self.pause_state == PauseState.UNPAUSED and not self._in_flight:
            self._resolve_stall()
        return output

    @property
    def _in_flight(self) -> bool:
        """Whether a step that was scheduled earlier still runs. Its tokens may let the groups go on."""
        return any(request.num_in_flight_tokens for request in self.requests.values())

    def _select_sampling_groups(self) -> None:
        """Selects the groups that sample in this step, and preempts until the free blocks suffice for them.

        It preempts from the end of `running`, which can reach the selected groups. These do not sample then.
        """
        groups = dict.fromkeys(filter(None, map(self._multi_branch_group, self.running)))
        budget = self.max_num_scheduled_tokens
        missing: dict[RequestGroup, int] = {}
        for group in sorted((group for group in groups if group.can_sample), key=lambda group: group.last_sampled):
            if group.size <= budget:
                missing[group] = self.block_budget.missing_blocks(group.requests)
                budget -= group.size
        while sum(missing.values()) > self.block_budget.free_blocks():
            last = self.running[-1]
            victim = self._multi_branch_group(last)
            if victim is None:
                self._preempt_requests([last])
            elif len(victim.running) < len(self.running):
                self._preempt_group(victim)
                missing.pop(victim, None)
            else:  # nothing else runs, so the group does not fit even alone
                self._fail_group(victim, self.block_budget.too_small_message(victim))
                break
        self.sampling = dict.fromkeys(group for group in missing if group.final_status is None)
        for group in self.sampling:
            group.last_sampled = self.current_step + 1  # `super().schedule` increments it

    def _preempt_group(self, group: RequestGroup) -> None:
        """Returns the whole group to the head of the waiting queue, where nothing stands between its branches."""
        self._preempt_requests(group.running)
        self.waiting.remove_requests(group.requests)
        for request in reversed(group.requests):
            if not request.is_finished():
                self.waiting.prepend_request(request)
        self.admitted.pop(group, None)
        group.is_admitted = False

    def _preempt_requests(self, requests: list[Request]) -> None:
        """Preempts running requests between two steps. They keep their order at the head of the queue."""
        now = time.monotonic()
        for request in reversed(requests):
            self.running.remove(request)
            super()._preempt_request(request, now)
            self.just_preempted.add(request.request_id)
            self.counts["preempted"] += 1

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """vLLM calls this to preempt a single request. The rest of its group follows in the next `schedule`."""
        super()._preempt_request(request, *args, **kwargs)
        group = self._multi_branch_group(request)
        if group is not None:
            self.partly_preempted[group] = None

    def _fail_group(self, group: RequestGroup, reason: str) -> None:
        group.fail(reason)
        self.maybe_ended[group] = None

    def _resolve_stall(self) -> None:
        """Nothing was scheduled: sleeps if a branch has yet to arrive, otherwise makes room."""
        if not self.running:
            if self.groups:
                time.sleep(IDLE_SECONDS)
            return
        stalled = [group for group in self.groups.values() if group.running]
        if not stalled or any(group.final_status is not None for group in stalled):
            return  # the end of a group makes room
        self.counts["stalls"] += 1
        youngest = max(stalled, key=lambda group: group.created)
        head = self.group_of_request.get(self.waiting.peek_request().request_id) if len(self.waiting) else youngest
        waits_for_head = len(youngest.running) < youngest.size and head is not youngest
        if len(stalled) == 1 and not waits_for_head:
            self._fail_group(youngest, self.block_budget.too_small_message(youngest))
        else:
            self._preempt_group(youngest)

    # Hooks that `schedule` of vLLM calls

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Whether a waiting request may run now.

        vLLM calls this for the first request of the queue. If it is False, vLLM skips the request in this step.
        """
        group = self._multi_branch_group(request)
        is_pending = group is not None and (group.final_status is not None or not group.is_complete)
        if is_pending or not super()._handle_blocked_waiting_request(request):
            return False
        members = [request] if group is None else [] if group.is_admitted else group.requests
        if request.request_id in self.just_preempted or any(member.num_in_flight_tokens for member in members):
            # Preempted just now, or in a step that still runs and brings one more token to compute again. Nothing
            # overtakes it.
            self.waiting.is_scan_stopped = True
            return False
        if group is None:
            return self._try_reserve([request])
        if not group.is_admitted and self._try_reserve(group.requests):
            group.is_admitted = True
            self.admitted[group] = None
        return group.is_admitted

    def _try_reserve(self, requests: list[Request]) -> bool:
        """Reserves slots and blocks for all these requests.

        Returns:
            False if they do not suffice. The scan of the waiting queue then stops until the next step.
        """
        if not self.running or self.block_budget.try_reserve(requests, self.admitted):
            return True  # if nothing runs, no more blocks will become free
        self.waiting.is_scan_stopped = True
        return False

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Number of tokens to compute of a running or waiting request. A branch that does not sample stops one short.

        vLLM calls this last, after all its own limits on the number.
        """
        num_tokens = int(super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens))
        group = self._multi_branch_group(request)
        if group is None or group in self.sampling:
            return num_tokens
        return max(min(num_tokens, scheduled_length(request) - 1 - num_computed_tokens), 0)

    def _get_local_prefix_cache_hit(self, request: Request, *limit: Any) -> Any:
        """vLLM's hit in the prefix cache, shortened so that a branch has a token to compute before its last one.

        vLLM 0.33 passes a limit of the hit. A recurrent layer has a state at the end of the hit only, so a shorter hit
        would lack one: such a branch computes its whole prompt.
        """
        blocks, hit, boundary, diverged = super()._get_local_prefix_cache_hit(request, *limit)
        if self._multi_branch_group(request) is not None and hit == request.num_tokens - 1:
            # The last token waits for the group, and vLLM cannot admit a request with zero tokens to compute.
            hit = 0 if self.has_mamba_layers else (hit - 1) // self.block_size * self.block_size
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, hit)
            self.counts["shortened hits"] += 1
        return blocks, hit, boundary, diverged

    # After the model ran

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        sampled = self._check_tokens(model_runner_output) if self.groups else ()
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for group in dict.fromkeys([*self.maybe_ended, *sampled]):
            group.check_end(self.missing_branch_timeout_s)
            if group.final_status is not None:
                self._finish_group(group, outputs)
        return outputs

    def _check_tokens(self, output: Any) -> Iterable[RequestGroup]:
        """The groups that sampled in this step.

        A group fails if an error was recorded while its token was chosen, or if its branches have different tokens.
        """
        sampled: dict[RequestGroup, list[tuple[int, ...]]] = {}
        for request_id, index in output.req_id_to_index.items():
            group = self.group_of_request.get(request_id)
            if group is not None and output.sampled_token_ids and len(output.sampled_token_ids[index]):
                sampled.setdefault(group, []).append(tuple(output.sampled_token_ids[index]))
        for group, tokens in sampled.items():
            self.counts["group steps"] += 1
            # If another process chooses the tokens, this is None. The tokens of the group then differ on an error.
            error = RECORD_STORE.reason(group.name)
            if error is not None:
                self.counts["faults"] += 1
                group.fail(error)
            elif len(tokens) < group.size or len(set(tokens)) != 1:
                self.counts["violations"] += 1
                group.fail(f"its branches chose different tokens: {tokens} of {group.size}")
        return sampled

    def _finish_group(self, group: RequestGroup, outputs: dict[int, EngineCoreOutputs]) -> None:
        """Ends the remaining requests of a group, adds their last outputs to `outputs`, and forgets the group.

        Their status is the one that `RequestGroup.check_end` or `fail` has set. `stop_reason` is the group's reason.
        """
        unfinished = [r.request_id for r in group.requests if not r.is_finished()]
        for request in self.finish_requests(unfinished, group.final_status or RequestStatus.FINISHED_ABORTED):
            batch = outputs.setdefault(request.client_index, EngineCoreOutputs())
            output = next((o for o in batch.outputs if o.request_id == request.request_id), None)
            if output is None:
                output = EngineCoreOutput(request.request_id, [])
                batch.outputs.append(output)
            output.finish_reason = request.get_finished_reason()
            output.stop_reason = group.reason
        for request in group.requests:
            del self.group_of_request[request.request_id]
        del self.groups[group.name]
        for subset in (self.admitted, self.maybe_ended, self.partly_preempted):
            subset.pop(group, None)

    def _multi_branch_group(self, request: Request) -> RequestGroup | None:
        """The group of a request, if it has at least two branches."""
        group = self.group_of_request.get(request.request_id)
        return group if group is not None and group.size > 1 else None


class LockstepScheduler(GroupRules, Scheduler):  # type: ignore[misc]
    """Scheduler with request groups that plans a step after the tokens of the step before are known."""


class AsyncLockstepScheduler(GroupRules, AsyncScheduler):  # type: ignore[misc]
    """Scheduler with request groups that plans a step while the step before runs (`async_scheduling`)."""


class StoppableQueue(FCFSRequestQueue):  # type: ignore[misc]
    """First-come-first-served queue. While `is_scan_stopped` is set it looks empty to vLLM's scan."""

    is_scan_stopped = False

    def __bool__(self) -> bool:
        return len(self) > 0 and not self.is_scan_stopped

    def ends_with(self, requests: list[Request]) -> bool:
        """Whether the queue ends with these requests, in this order."""
        return len(self) >= len(requests) and all(
            self[i - len(requests)] is request for i, request in enumerate(requests)
        )


REGULAR_ENDS = frozenset({RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED})


def lacks_one_token(request: Request) -> bool:
    """Whether all tokens of a request but the last are computed. The logits of the last give the next token."""
    return scheduled_length(request) - int(request.num_computed_tokens) == 1


def scheduled_length(request: Request) -> int:
    """Number of tokens of a request, including those that a step in flight is about to sample."""
    return int(request.num_tokens + request.num_output_placeholders)


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
        if self.scheduler.has_mamba_layers:
            return (
                f"its {group.size} branches, with the states of their recurrent layers, need more than the cache of "
                "this engine: shorten the prompts, or give it a larger cache"
            )
        size, available = self.scheduler.block_size, self.scheduler.kv_cache_config.num_blocks - 1
        required = sum(-(-request.num_tokens // size) for request in group.requests)
        return (
            f"its {group.size} branches need {required} blocks of {size} tokens together, and the cache of this engine "
            f"has {available}. {group.size} branches of {available // group.size * size} tokens each fit, prompt and "
            "answer: shorten the prompts, or give it a larger cache"
        )


ENGINE_PROCESS_PREFIX = "EngineCore"
"""Start of the names that vLLM gives to engine processes."""


def exit_with_parent() -> None:
    """Ends the engine's process when the process that started it ends. Does nothing if both are one process.

    vLLM's workers watch their engine, but nothing watches the server. Otherwise a server that is killed would leave an
    engine behind that holds its memory.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.current_process().name.startswith(ENGINE_PROCESS_PREFIX):
        Thread(target=_exit_after, args=(parent,), name="parent watch", daemon=True).start()


def _exit_after(parent: Any) -> None:
    parent.join()
    os._exit(1)  # vLLM's workers notice that their engine has ended
