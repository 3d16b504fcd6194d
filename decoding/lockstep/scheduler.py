"""The scheduler: the branches of a group are admitted, choose, are preempted and end together.

vLLM's own advances each request as soon as it can, so a branch with a short prompt, a cache hit or a spare block
chooses before its partners do. Three rules are added around the body of `schedule`, which stays vLLM's:

1. Park. A branch is read up to one token before the one that it chooses from, and waits. A group is *armed* for a
   step when all its branches wait there and budget and free blocks hold them all; then they run in one batch. Those
   that chose longest ago go first.
2. Admit whole. A group leaves the waiting queue when all its branches have come and slots and blocks suffice for all
   of them, beside what admitted groups still need. Whatever is refused holds back everything behind it.
3. Preempt and end whole.

After each step the chosen tokens are compared: a group whose branches differ ends with an error.
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
from decoding.lockstep.engine_requirements import PATIENCE, check_engine, settings_of
from decoding.lockstep.parent_watch import exit_with_parent
from decoding.lockstep.request_group import RequestGroup
from decoding.lockstep.request_metadata import parse_branch
from decoding.lockstep.step_records import RECORD_STORE
from decoding.lockstep.waiting_queue import ClosableQueue

IDLE = 0.001
"""Seconds of rest where nothing can be done but wait for a branch: the engine's loop spins as long as requests live."""


class LockstepScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler with gangs. Ordinary requests are scheduled as ever, in order with the groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_engine(self.vllm_config)
        exit_with_parent()
        if self.has_mamba_layers:
            raise ValueError("strategies cannot run in this engine: state-space layers were not verified")
        self.patience = float(settings_of(self.vllm_config).get("lockstep_patience", PATIENCE))
        self.waiting = ClosableQueue()
        self.scale = BlockBudget(self)
        self.gangs: dict[str, RequestGroup] = {}
        self.gang_of: dict[str, RequestGroup] = {}  # request id -> gang
        self.counts: Counter[str] = Counter()
        # Subsets of the gangs, so that a step does not look at those that merely wait:
        self.admitted: dict[RequestGroup, None] = {}
        self.suspect: dict[RequestGroup, None] = {}  # incomplete, or one of its branches has ended
        self.torn: dict[RequestGroup, None] = {}  # vLLM preempted a branch
        # Of the current step:
        self.armed: dict[RequestGroup, None] = {}
        self.resting: set[str] = set()  # preempted just now; the runner cannot resume them in the same step

    # Arrival and end

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        params = request.sampling_params
        branch = parse_branch(params.extra_args) if params is not None else None
        if branch is None:
            return
        name = branch.group
        known = self.gangs.get(name)
        stray = known is not None and (branch.count != known.size or branch.index in known.members)
        if stray:
            name = f"{name} ({request.request_id})"  # a group of its own, so that the newcomer alone ends
        gang = self.gangs.setdefault(name, RequestGroup(name, branch.count))
        gang.members[branch.index] = request
        self.gang_of[request.request_id] = gang
        most = min(self.max_num_active_reqs, self.max_num_scheduled_tokens)
        if stray:
            gang.fail(f"group {branch.group} has its branch {branch.index} already, or another number of branches")
        elif gang.size > 1 and request.num_tokens < 2:
            gang.fail("a prompt of one token cannot wait for its partners before it chooses")
        elif gang.size > most:
            gang.fail(f"{gang.size} branches in an engine that runs {most} requests at once")
        self.suspect[gang] = None
        gang.judge(self.patience)  # a branch may have been aborted before the last one came
        if gang.complete and gang.verdict is None:
            del self.suspect[gang]
            if not self.waiting.ends_with(gang.requests):
                self.waiting.remove_requests(gang.requests)  # side by side, so that they are admitted in one go
                for member in gang.requests:
                    self.waiting.add_request(member)

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> list[Request]:
        done: list[Request] = super().finish_requests(request_ids, finished_status)
        self.suspect.update(dict.fromkeys(filter(None, (self.gang_of.get(r.request_id) for r in done))))
        return done

    # One step

    def schedule(self, throttle_prefills: bool = False) -> Any:
        self.resting.clear()
        self.scale.new_step()
        for gang in self.suspect:
            gang.judge(self.patience)
        for gang in list(self.torn):
            self._retire(gang)
            self.counts["torn"] += 1
        self.torn.clear()
        self._arm()
        if self.armed:  # first: vLLM serves `running` in order and takes its victims from the end
            self.running.sort(key=lambda r: self.gang_of.get(r.request_id) not in self.armed)
        output = super().schedule(throttle_prefills)
        self.waiting.closed = False
        self.counts["encoder inputs"] += sum(map(len, output.scheduled_encoder_inputs.values()))
        if output.total_num_scheduled_tokens == 0 and self.pause_state == PauseState.UNPAUSED:
            self._unblock()
        return output

    def _arm(self) -> None:
        """Chooses the groups that choose in this step; their rows are certain to be scheduled."""
        seen = dict.fromkeys(filter(None, map(self._gang, self.running)))
        budget = self.max_num_scheduled_tokens
        needed: dict[RequestGroup, int] = {}
        for gang in sorted((gang for gang in seen if gang.ready), key=lambda gang: gang.turn):
            if gang.size <= budget:
                needed[gang] = self.scale.needed(gang.requests)
                budget -= gang.size
        while sum(needed.values()) > self.scale.free():
            last = self.running[-1]
            victim = self._gang(last)
            if victim is None:
                self._preempt([last])
            elif len(victim.running) < len(self.running):
                self._retire(victim)
                needed.pop(victim, None)
            else:
                self._fail(victim, self.scale.too_small(victim))
                break
        self.armed = dict.fromkeys(gang for gang in needed if gang.verdict is None)
        for gang in self.armed:
            gang.turn = self.current_step + 1

    def _retire(self, gang: RequestGroup) -> None:
        """The whole group back to the waiting queue."""
        self._preempt(gang.running)
        self.admitted.pop(gang, None)
        gang.admitted = False

    def _preempt(self, requests: list[Request]) -> None:
        """Running requests, between steps; they keep their order at the head of the queue."""
        now = time.monotonic()
        for request in reversed(requests):
            self.running.remove(request)
            super()._preempt_request(request, now)
            self.resting.add(request.request_id)
            self.counts["preempted"] += 1

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """vLLM preempts one request, whoever its partners are."""
        super()._preempt_request(request, *args, **kwargs)
        gang = self._gang(request)
        if gang is not None:
            self.torn[gang] = None

    def _fail(self, gang: RequestGroup, reason: str) -> None:
        gang.fail(reason)
        self.suspect[gang] = None

    def _unblock(self) -> None:
        """Nothing was scheduled: idle while a partner is awaited, else room must be made."""
        if not self.running:
            if self.gangs:
                time.sleep(IDLE)
            return
        stuck = [gang for gang in self.gangs.values() if gang.running]
        if not stuck or any(gang.verdict is not None for gang in stuck):
            return  # there is room once a group that ends has gone
        self.counts["stalls"] += 1
        youngest = max(stuck, key=lambda gang: gang.born)
        if len(stuck) == 1:
            self._fail(youngest, self.scale.too_small(youngest))
        else:
            self._retire(youngest)

    # Hooks inside vLLM's `schedule`

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if not super()._handle_blocked_waiting_request(request) or request.request_id in self.resting:
            return False
        gang = self._gang(request)
        if gang is None:
            return self._has_room([request])
        if gang.verdict is not None or not gang.complete:
            return False
        if not gang.admitted and self._has_room(gang.requests):
            gang.admitted = True
            self.admitted[gang] = None
        return gang.admitted

    def _has_room(self, requests: list[Request]) -> bool:
        """Whether these may enter; if not, this step's scan of the queue is over."""
        if not self.running or self.scale.take(requests, self.admitted):
            return True  # with nothing running, whatever it is will not fit better later
        self.waiting.closed = True
        return False

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """vLLM's last word on the length of a chunk, for running and for waiting requests: here a branch is parked."""
        wanted = int(super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens))
        gang = self._gang(request)
        if gang is None or gang in self.armed:
            return wanted
        return max(min(wanted, int(request.num_tokens) - 1 - num_computed_tokens), 0)

    def _get_local_prefix_cache_hit(self, request: Request) -> Any:
        blocks, hit, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if self._gang(request) is not None and hit == request.num_tokens - 1:
            # A branch enters with at least one token to read before the one it chooses from: a block goes back.
            hit = (hit - 1) // self.block_size * self.block_size
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, hit)
            self.counts["hits cut"] += 1
        return blocks, hit, boundary, diverged

    # After the model ran

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        chose = self._compare(model_runner_output) if self.gangs else ()
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for gang in dict.fromkeys([*self.suspect, *chose]):
            gang.judge(self.patience)
            if gang.verdict is not None:
                self._bury(gang, outputs)
        return outputs

    def _compare(self, output: Any) -> Iterable[RequestGroup]:
        """The gangs that chose in this step. One that could not, or whose branches chose apart, ends with an error."""
        sampled: dict[RequestGroup, list[tuple[int, ...]]] = {}
        for request_id, index in output.req_id_to_index.items():
            gang = self.gang_of.get(request_id)
            if gang is not None and output.sampled_token_ids and len(output.sampled_token_ids[index]):
                sampled.setdefault(gang, []).append(tuple(output.sampled_token_ids[index]))
        for gang, tokens in sampled.items():
            self.counts["group steps"] += 1
            reason = RECORD_STORE.reason(gang.name)
            if reason is not None:
                self.counts["faults"] += 1
                gang.fail(reason)
            elif len(tokens) < gang.size or len(set(tokens)) != 1:
                self.counts["violations"] += 1
                gang.fail(f"its branches chose apart: {tokens} of {gang.size}")
        return sampled

    def _bury(self, gang: RequestGroup, outputs: dict[int, EngineCoreOutputs]) -> None:
        """Ends what is left of a group and tells whoever waits for it."""
        left = [r.request_id for r in gang.requests if not r.is_finished()]
        for request in self.finish_requests(left, gang.verdict or RequestStatus.FINISHED_ABORTED):
            batch = outputs.setdefault(request.client_index, EngineCoreOutputs())
            said = next((o for o in batch.outputs if o.request_id == request.request_id), None)
            if said is None:
                said = EngineCoreOutput(request.request_id, [])
                batch.outputs.append(said)
            said.finish_reason = request.get_finished_reason()
            said.stop_reason = gang.reason
        for request in gang.requests:
            del self.gang_of[request.request_id]
        del self.gangs[gang.name]
        for some in (self.admitted, self.suspect, self.torn):
            some.pop(gang, None)

    def _gang(self, request: Request) -> RequestGroup | None:
        """The group of a request that has partners."""
        gang = self.gang_of.get(request.request_id)
        return gang if gang is not None and gang.size > 1 else None
