"""Ends of groups: limits, aborts, missing and duplicate branches, too small caches. No model is needed."""

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import simulate

from decoding.lockstep.request_metadata import BranchMetadata
from decoding.lockstep.step_records import RECORD_STORE


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture
def world(folder: Path) -> simulate.World:
    return made(folder)


def made(folder: Path, blocks: int = 60, **more: Any) -> simulate.World:
    world = simulate.World(simulate.scheduler(simulate.config(folder, 64, 8, False, **more), blocks), random.Random(0))
    world.stop_rate = 0.0
    return world


def finish(world: simulate.World) -> dict[str, str]:
    """Runs all requests, checks that nothing is left, and returns name -> 'finish: reason'."""
    world.run()
    assert not world.scheduler.groups
    assert world.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == (
        world.scheduler.kv_cache_config.num_blocks - 1
    )
    return {name: f"{end}: {reason}" if reason else end for name, (end, reason) in world.ends.items()}


def test_the_shortest_limit_of_a_branch_ends_its_group(world: simulate.World) -> None:
    world.add("g.0", 20, 9, BranchMetadata("g", 0, 2, simulate.ARM))
    world.add("g.1", 35, 4, BranchMetadata("g", 1, 2, simulate.ARM))
    assert finish(world) == {"g.0": "length", "g.1": "length"}
    assert world.tokens["g.0"] == world.tokens["g.1"]
    assert len(world.tokens["g.0"]) == 4


def test_an_abort_of_one_branch_ends_its_group_and_no_other(world: simulate.World) -> None:
    from vllm.v1.request import RequestStatus

    world.group("g", [20, 30, 40], 50)
    world.group("other", [20, 30], 12)
    for _ in range(8):
        world.step()
    world.scheduler.finish_requests("g.1", RequestStatus.FINISHED_ABORTED)
    ends = finish(world)
    assert ends == {"g.0": "abort", "g.2": "abort", "other.0": "length", "other.1": "length"}
    assert 0 < len(world.tokens["g.0"]) < 50


def test_a_group_that_waits_can_be_aborted_too(world: simulate.World) -> None:
    from vllm.v1.request import RequestStatus

    for g in range(6):
        world.group(f"g{g}", [100, 100], 3)
    world.step()
    world.scheduler.finish_requests("g5.0", RequestStatus.FINISHED_ABORTED)
    ends = finish(world)
    assert ends["g5.1"] == "abort"
    assert all(end == "length" for name, end in ends.items() if not name.startswith("g5"))


def test_a_branch_that_never_comes_ends_its_group_with_the_reason(folder: Path) -> None:
    world = made(folder, patience=0.05)
    world.add("half.0", 20, 5, BranchMetadata("half", 0, 3, simulate.ARM))
    world.add("half.2", 20, 5, BranchMetadata("half", 2, 3, simulate.ARM))
    world.group("other", [20, 30], 6)
    ends = finish(world)
    assert ends["half.0"] == "error: 2 of 3 branches arrived within 0.05 s: [0, 2]"
    assert ends["other.1"] == "length"


def test_a_branch_sent_twice_ends_alone(world: simulate.World) -> None:
    world.group("g", [20, 30], 6)
    world.add("again", 30, 6, BranchMetadata("g", 1, 2, simulate.ARM))
    ends = finish(world)
    assert ends["again"] == "error: group g has its branch 1 already, or another number of branches"
    assert ends["g.0"] == ends["g.1"] == "length"


def test_a_prompt_of_one_token_is_refused_in_a_group_and_taken_alone(world: simulate.World) -> None:
    world.group("g", [1, 30], 6)
    world.group("alone", [1], 6)
    ends = finish(world)
    assert ends["g.1"] == "error: a prompt of one token cannot wait for the other branches before it samples"
    assert ends["alone.0"] == "length"


def test_a_group_larger_than_the_cache_ends_with_the_numbers(folder: Path) -> None:
    world = made(folder, blocks=21)
    world.group("large", [200, 200], 5)
    world.group("fits", [100, 100], 5)
    world.group("just", [155, 155], 5)
    ends = finish(world)
    assert ends["large.0"].startswith("error: its 2 branches need 26 blocks of 16 tokens together")
    assert "has 20. 2 branches of 160 tokens each fit, prompt and answer" in ends["large.0"]
    assert ends["just.0"] == ends["just.1"] == "length"
    assert "has 20" in ends["large.0"]
    assert ends["fits.0"] == "length"


def test_a_group_that_outgrows_the_cache_ends_and_the_queue_goes_on(folder: Path) -> None:
    world = made(folder, blocks=15)
    world.group("grows", [90, 90], 100)
    world.group("fits", [60, 60], 5)
    ends = finish(world)
    assert ends["grows.1"].startswith("error: its 2 branches need")
    assert len(world.tokens["grows.0"]) > 5
    assert world.scheduler.counts["violations"] == 0
    assert ends["fits.1"] == "length"


def test_more_branches_than_the_engine_runs_at_once_are_refused(world: simulate.World) -> None:
    world.group("wide", [20] * 9, 5)
    assert finish(world)["wide.8"] == "error: 9 branches in an engine that runs 8 requests at once"


@pytest.mark.parametrize("branches", [1, 3])
def test_a_step_that_cannot_be_taken_ends_the_group_with_its_reason(world: simulate.World, branches: int) -> None:
    world.group("g", [20] * branches, 30)
    world.group("other", [20, 30], 6)
    while len(world.tokens["g.0"]) < 3:
        world.step()
    RECORD_STORE.taken.clear()  # another test took the record of a group of this name
    RECORD_STORE.fault("g", 3, "step 3: no token is left")
    ends = finish(world)
    RECORD_STORE.take("g")
    assert {ends[name] for name in world.members["g"]} == {"error: step 3: no token is left"}
    assert (world.scheduler.counts["faults"], world.scheduler.counts["violations"]) == (1, 0)
    assert ends["other.0"] == "length"


def test_sixteen_branches_of_unequal_length_decode_one_output(folder: Path) -> None:
    world = simulate.World(simulate.scheduler(simulate.config(folder, 64, 16, True), 200), random.Random(0))
    world.group("wide", [3 + 11 * b for b in range(16)], 25)
    finish(world)
    assert len({tuple(world.tokens[m]) for m in world.members["wide"]}) == 1
    assert world.scheduler.counts["violations"] == 0


def test_ordinary_requests_are_scheduled_as_by_vllm(folder: Path) -> None:
    """In every step, the same requests get the same numbers of tokens as under vLLM's own scheduler."""
    from vllm.v1.core.sched.scheduler import Scheduler

    schedules = []
    for kind in (Scheduler, simulate.LockstepScheduler):
        engine = simulate.config(folder, 48, 6, True)
        world = simulate.World(simulate.scheduler(engine, 60, kind), random.Random(3))
        for i in range(20):
            world.add(f"r{i}", world.draw.randrange(1, 90), world.draw.randrange(1, 30), shared=16)
        schedule, steps = world.scheduler.schedule, []

        def watched(schedule: Any = schedule, steps: Any = steps) -> Any:
            output = schedule()
            steps.append(dict(output.num_scheduled_tokens))
            return output

        world.scheduler.schedule = watched
        world.run()
        schedules.append(steps)
    assert len(schedules[0]) > 20
    assert schedules[0] == schedules[1]
