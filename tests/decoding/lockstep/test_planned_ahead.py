"""Asynchronous scheduling: a step is planned while the step before runs. And what vLLM must offer for the scheduler."""

import inspect
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import simulate
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from decoding.lockstep.scheduler import GroupRules

HOOKS = (
    "_get_local_prefix_cache_hit",
    "_handle_blocked_waiting_request",
    "_preempt_request",
    "_reserve_prefill_lookahead",
    "__init__",
    "add_request",
    "finish_requests",
    "schedule",
    "update_from_output",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    import checkpoints

    return checkpoints.shared("llava")


def world(folder: Path, budget: int = 64, blocks: int = 34, steps: int = 2, sequences: int = 16) -> simulate.World:
    engine = simulate.config(folder, budget, sequences, prefix=False, steps_in_flight=steps)
    made = simulate.World(simulate.scheduler(engine, blocks), random.Random(0))
    made.stop_rate = 0.0
    return made


def test_nothing_to_schedule_while_a_step_runs_is_no_stall(folder: Path) -> None:
    """vLLM schedules nothing after the step that brings the last token a request may have."""
    running = world(folder)
    running.group("g", [3, 30], 12)
    running.run()
    assert running.scheduler.counts["stalls"] == 0
    assert running.scheduler.counts["preempted"] == 0
    assert running.ends["g.0"][0] == running.ends["g.1"][0] == "length"


def test_a_group_samples_in_every_step_although_its_last_token_is_not_known_yet(folder: Path) -> None:
    steps = {}
    for in_flight in (1, 2):
        running = world(folder, steps=in_flight)
        running.group("g", [3, 30], 40)
        running.run()
        assert len(running.tokens["g.0"]) == 40
        steps[in_flight] = running.steps
    assert steps[2] <= steps[1] + 2


def test_a_stop_token_ends_a_group_whose_next_step_is_planned_already(folder: Path) -> None:
    running = world(folder)
    running.group("g", [3, 30], 40)
    running.group("h", [5, 9], 40)
    while len(running.tokens["g.0"]) < 5:
        running.step()
    running.meddle = lambda own, ids: own | {i: simulate.STOP for i, name in enumerate(ids) if name.startswith("g")}
    running.step()
    running.meddle = lambda own, ids: own
    running.run()
    assert running.tokens["g.0"] == running.tokens["g.1"]
    assert running.tokens["g.0"][-1] == simulate.STOP
    assert len(running.tokens["g.0"]) < 10
    assert running.tokens["h.0"] == running.tokens["h.1"]
    assert len(running.tokens["h.0"]) == 40
    assert running.scheduler.counts["violations"] == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_half_admitted_group_makes_way_for_a_preempted_request_that_does_not_fit_beside_it(
    folder: Path, steps: int
) -> None:
    """The preempted request stands before the rest of the group, which is no reason to end the group."""
    running = world(folder, budget=16, steps=steps, sequences=5)
    running.add("plain", 5, 60)
    running.step()
    running.group("g", [17, 17, 3, 3, 60], 4)
    while "g.0" not in [request.request_id for request in running.scheduler.running]:
        running.scheduler.max_num_active_reqs = 6
        running.step()
    running.scheduler.max_num_active_reqs = 5
    plain = running.scheduler.requests["plain"]
    while plain.num_in_flight_tokens:
        running.scheduler.update_from_output(*running.in_flight.popleft())
    running.scheduler.running.remove(plain)
    running.scheduler._preempt_request(plain, 0.0)
    running.run()
    assert {running.ends[name][0] for name in ("plain", *running.members["g"])} == {"length"}


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("name", HOOKS)
def test_vllm_has_every_method_that_the_scheduler_overrides_with_parameters_that_it_accepts(
    name: str, base: type[Any]
) -> None:
    theirs, ours = inspect.signature(getattr(base, name)), inspect.signature(getattr(GroupRules, name))
    passed = [p for p in theirs.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    ours.bind(*passed)  # raises TypeError if vLLM may pass more than the override takes
    required = [p for p in passed if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
    ours.bind(*required)


def test_all_overrides_are_checked_and_vllm_calls_each_of_its_internal_ones() -> None:
    overridden = {
        name for name in vars(GroupRules) if hasattr(Scheduler, name) and inspect.isfunction(vars(GroupRules)[name])
    }
    assert overridden == set(HOOKS)
    calls = inspect.getsource(Scheduler.schedule)
    for name in HOOKS:
        if name.startswith("_") and not name.startswith("__"):
            assert f"self.{name}(" in calls, name
