"""vLLM's scheduler, extended so that the branches of a group sample the same token in the same step.

vLLM alone advances each request as soon as it can. A branch with a short prompt, a hit in the prefix cache or a spare
block would sample before the other branches of its group. Three rules, added around vLLM's own `schedule`, prevent it:

1. Wait for the group. A branch computes its prompt except for the last token, and waits. Once all branches wait, and
   the token budget and the free blocks suffice for all of them, the group *samples*: each branch computes its last
   token in the same batch, and all receive the same next token. Groups that sampled longest ago go first.
2. Admit whole groups. A group leaves the waiting queue when all its branches have arrived, and request slots and blocks
   suffice for all of them beside what admitted groups still need. A group or request that does not fit blocks
   everything behind it in the queue.
3. Preempt and end whole groups.

An example with two groups of two branches. A step computes at most 16 tokens, and the cache has 4 blocks of 16 tokens.
Each entry is the number of tokens that are computed in a step:

    step                      1    2    3    4    5    6    7    8    9
    g.0  prompt of 5 tokens   4    1*   1*   1*   1*   1*                   *  its group samples
    g.1  prompt of 13         12   1*   1*   1*   1*   1*                   .  waits
    h.0  prompt of 6          .    5    .    1*   1*   P    7    .    1*    P  preempted
    h.1  prompt of 14         .    9    4    1*   1*   P    9    6    1*

In step 6 no block is free for the next token of h.1, so the scheduler preempts h as a whole. h is admitted again when g
has ended, and then computes its 8 and 16 tokens again, except for the last token of each branch.

After each step the sampled tokens are compared. A group whose branches differ ends with an error.

Where to change what:

    arrival of a branch, errors at arrival        add_request
    which groups sample in a step                 _select_sampling_groups, RequestGroup.can_sample
    when a group leaves the waiting queue         _handle_blocked_waiting_request, block_budget.py
    how far a waiting branch is computed          _reserve_prefill_lookahead
    preemption                                    _preempt_group, _preempt_request (vLLM preempts a single branch)
    nothing can be scheduled                      _resolve_stall
    end of a group, patience                      RequestGroup.check_end, _finish_group
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import Request, RequestStatus

from decoding.lockstep.block_budget import BlockBudget
from decoding.lockstep.engine_requirements import PATIENCE_SECONDS, additional_config, check_engine
from decoding.lockstep.parent_watch import exit_with_parent
from decoding.lockstep.request_group import RequestGroup
from decoding.lockstep.request_metadata import parse_branch
from decoding.lockstep.step_records import RECORD_STORE
from decoding.lockstep.waiting_queue import ClosableQueue

IDLE_SECONDS = 0.001
"""Sleep when only a missing branch can change anything. The engine's loop runs without pause while requests exist."""


class LockstepScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler with request groups. Ordinary requests are scheduled as usual, in order with the groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_engine(self.vllm_config)
        exit_with_parent()
        if self.has_mamba_layers:
            raise ValueError("strategies cannot run in this engine: state-space layers were not verified")
        self.patience = float(additional_config(self.vllm_config).get("lockstep_patience", PATIENCE_SECONDS))
        self.waiting = ClosableQueue()
        self.block_budget = BlockBudget(self)
        self.groups: dict[str, RequestGroup] = {}
        self.group_of_request: dict[str, RequestGroup] = {}
        self.counts: Counter[str] = Counter()
        # Subsets of the groups, so that a step does not examine groups that only wait:
        self.admitted: dict[RequestGroup, None] = {}
        self.maybe_ended: dict[RequestGroup, None] = {}  # incomplete, or one branch has ended
        self.split: dict[RequestGroup, None] = {}  # vLLM preempted a branch
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
        group.check_end(self.patience)  # a branch may have been aborted before the last one arrived
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
            group.check_end(self.patience)
        for group in list(self.split):
            self._preempt_group(group)
            self.counts["split groups"] += 1
        self.split.clear()
        self._select_sampling_groups()
        if self.sampling:  # first: vLLM serves `running` in order, and preempts from its end
            self.running.sort(key=lambda r: self.group_of_request.get(r.request_id) not in self.sampling)
        output = super().schedule(throttle_prefills)
        self.waiting.closed = False
        self.counts["encoder inputs"] += sum(map(len, output.scheduled_encoder_inputs.values()))
        if output.total_num_scheduled_tokens == 0 and self.pause_state == PauseState.UNPAUSED:
            self._resolve_stall()
        return output

    def _select_sampling_groups(self) -> None:
        """Selects the groups that sample in this step, and preempts others until the free blocks suffice for them."""
        groups = dict.fromkeys(filter(None, map(self._shared_group, self.running)))
        budget = self.max_num_scheduled_tokens
        missing: dict[RequestGroup, int] = {}
        for group in sorted((group for group in groups if group.can_sample), key=lambda group: group.last_sampled):
            if group.size <= budget:
                missing[group] = self.block_budget.missing_blocks(group.requests)
                budget -= group.size
        while sum(missing.values()) > self.block_budget.free_blocks():
            last = self.running[-1]
            victim = self._shared_group(last)
            if victim is None:
                self._preempt_requests([last])
            elif len(victim.running) < len(self.running):
                self._preempt_group(victim)
                missing.pop(victim, None)
            else:
                self._fail_group(victim, self.block_budget.too_small_message(victim))
                break
        self.sampling = dict.fromkeys(group for group in missing if group.final_status is None)
        for group in self.sampling:
            group.last_sampled = self.current_step + 1

    def _preempt_group(self, group: RequestGroup) -> None:
        """Returns the whole group to the waiting queue."""
        self._preempt_requests(group.running)
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
        """vLLM preempts a single request. The rest of its group follows at the start of the next step."""
        super()._preempt_request(request, *args, **kwargs)
        group = self._shared_group(request)
        if group is not None:
            self.split[group] = None

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
        if len(stalled) == 1:
            self._fail_group(youngest, self.block_budget.too_small_message(youngest))
        else:
            self._preempt_group(youngest)

    # Hooks inside vLLM's `schedule`

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Whether a waiting request may run now."""
        if not super()._handle_blocked_waiting_request(request) or request.request_id in self.just_preempted:
            return False
        group = self._shared_group(request)
        if group is None:
            return self._has_room([request])
        if group.final_status is not None or not group.is_complete:
            return False
        if not group.is_admitted and self._has_room(group.requests):
            group.is_admitted = True
            self.admitted[group] = None
        return group.is_admitted

    def _has_room(self, requests: list[Request]) -> bool:
        """Whether these may enter. If not, this step's scan of the waiting queue ends."""
        if not self.running or self.block_budget.reserve(requests, self.admitted):
            return True  # with nothing running, there will never be more room
        self.waiting.closed = True
        return False

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Number of tokens to compute of a running or waiting request. A branch that does not sample stops one short.

        vLLM calls this last, after all its own limits.
        """
        num_tokens = int(super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens))
        group = self._shared_group(request)
        if group is None or group in self.sampling:
            return num_tokens
        return max(min(num_tokens, int(request.num_tokens) - 1 - num_computed_tokens), 0)

    def _get_local_prefix_cache_hit(self, request: Request) -> Any:
        blocks, hit, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if self._shared_group(request) is not None and hit == request.num_tokens - 1:
            # A branch needs at least one token to compute before the last one, so one block of the hit is dropped.
            hit = (hit - 1) // self.block_size * self.block_size
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, hit)
            self.counts["shortened hits"] += 1
        return blocks, hit, boundary, diverged

    # After the model ran

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        sampled = self._check_tokens(model_runner_output) if self.groups else ()
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for group in dict.fromkeys([*self.maybe_ended, *sampled]):
            group.check_end(self.patience)
            if group.final_status is not None:
                self._finish_group(group, outputs)
        return outputs

    def _check_tokens(self, output: Any) -> Iterable[RequestGroup]:
        """The groups that sampled in this step. A group with a fault or with unequal tokens fails."""
        sampled: dict[RequestGroup, list[tuple[int, ...]]] = {}
        for request_id, index in output.req_id_to_index.items():
            group = self.group_of_request.get(request_id)
            if group is not None and output.sampled_token_ids and len(output.sampled_token_ids[index]):
                sampled.setdefault(group, []).append(tuple(output.sampled_token_ids[index]))
        for group, tokens in sampled.items():
            self.counts["group steps"] += 1
            reason = RECORD_STORE.reason(group.name)
            if reason is not None:
                self.counts["faults"] += 1
                group.fail(reason)
            elif len(tokens) < group.size or len(set(tokens)) != 1:
                self.counts["violations"] += 1
                group.fail(f"its branches chose different tokens: {tokens} of {group.size}")
        return sampled

    def _finish_group(self, group: RequestGroup, outputs: dict[int, EngineCoreOutputs]) -> None:
        """Ends the remaining requests of a group, adds their last outputs to `outputs`, and forgets the group."""
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
        for subset in (self.admitted, self.maybe_ended, self.split):
            subset.pop(group, None)

    def _shared_group(self, request: Request) -> RequestGroup | None:
        """The group of a request, if it has at least two branches."""
        group = self.group_of_request.get(request.request_id)
        return group if group is not None and group.size > 1 else None
