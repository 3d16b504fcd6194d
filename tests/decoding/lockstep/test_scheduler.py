"""The rules of the scheduler one by one. Each test fails without its rule. No model is needed."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import simulate
from test_ends import finish
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from decoding.lockstep import scheduler as scheduler_module
from decoding.lockstep.request_metadata import BranchMetadata
from decoding.lockstep.scheduler import RequestGroup


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


def made(
    folder: Path, blocks: int = 60, budget: int = 64, sequences: int = 8, prefix: bool = False, **more: Any
) -> simulate.World:
    engine = simulate.config(folder, budget, sequences, prefix, **more)
    world = simulate.World(simulate.scheduler(engine, blocks), random.Random(0))
    world.stop_rate = 0.0
    return world


def branch(world: simulate.World, group: str, index: int, length: int = 20) -> None:
    world.add(f"{group}.{index}", length, 5, BranchMetadata(group, index, 2, simulate.ARM))


def until(world: simulate.World, reached: Callable[[], Any]) -> None:
    for _ in range(400):
        if reached():
            return
        world.step()
    raise AssertionError("it was not reached")


def agree(world: simulate.World, *names: str) -> bool:
    return len({tuple(world.tokens[name]) for name in names}) == 1


# Sampling together


def test_the_timeline_of_the_docstring_is_what_happens(folder: Path) -> None:
    table = str(scheduler_module.__doc__).split("    step  ")[1].split("\n\n")[0]
    expected = {row[:3]: row[26:70].split() for row in map(str.strip, table.splitlines()[1:])}
    world = made(folder, budget=16, blocks=5)
    world.group("g", [5, 13], 5)
    world.group("h", [6, 14], 8)
    rows: dict[str, list[str]] = {name: [] for name in expected}
    schedule, steps = world.scheduler.schedule, list[dict[str, int]]()

    def recorded() -> Any:
        output = schedule()
        steps.append(dict(output.num_scheduled_tokens))
        return output

    world.scheduler.schedule = recorded
    for _ in range(9):
        world.step()
        for name in rows.keys() & world.scheduler.requests.keys() | steps[-1].keys():
            count, samples = steps[-1].get(name), name[0] in world.whole
            is_preempted = not count and world.scheduler.requests[name].status == RequestStatus.PREEMPTED
            rows[name].append(f"{count}*" if samples else str(count) if count else "P" if is_preempted else ".")
    assert rows == expected
    assert set(finish(world).values()) == {"length"}


@pytest.mark.parametrize("what", ["other token", "no token", "two tokens"])
def test_branches_that_sample_different_tokens_end_with_an_error(folder: Path, what: str) -> None:
    world = made(folder)
    world.group("g", [20, 30], 50)
    world.group("other", [20, 25], 8)

    def meddle(own: dict[int, int], ids: list[str]) -> dict[int, int]:
        place = ids.index("g.1") if "g.1" in ids else -1
        if place in own and len(world.tokens["g.1"]) == 3:
            return own | {place: 91} if what == "other token" else {i: t for i, t in own.items() if i != place}
        return own

    world.meddle = meddle
    if what == "two tokens":  # as a drafter would
        world.meddle = lambda own, ids: own
        compare = world.scheduler._check_tokens

        def twice(output: Any) -> Any:
            if len(world.tokens["g.0"]) == 3 and "g.0" in output.req_id_to_index:
                output.sampled_token_ids[output.req_id_to_index["g.0"]] *= 2
            return compare(output)

        world.scheduler._check_tokens = twice
    ends = finish(world)
    assert ends["g.0"] == ends["g.1"]
    assert ends["g.0"].startswith("error: its branches chose different tokens: [(")
    assert ends["g.0"].endswith(" of 2")
    assert ends["other.0"] == ends["other.1"] == "length"
    assert agree(world, "other.0", "other.1")
    assert world.scheduler.counts["violations"] == 1
    assert world.scheduler.counts["faults"] == 0


def test_every_step_of_a_group_is_counted_once(folder: Path) -> None:
    world = made(folder)
    world.group("g", [20, 30, 40], 7)
    world.group("alone", [20], 4)
    world.add("plain", 20, 9)
    finish(world)
    assert world.scheduler.counts["group steps"] == 7 + 4
    assert world.scheduler.counts["violations"] == world.scheduler.counts["preempted"] == 0


def test_a_computed_branch_waits_one_token_before_it_samples(folder: Path) -> None:
    world = made(folder, budget=16)
    world.group("g", [5, 80], 3)
    short = world.scheduler.requests["g.0"]
    until(world, lambda: world.tokens["g.0"] or short.num_computed_tokens > 4)
    assert world.steps == 7  # 4 tokens of one and 79 of the other, 16 a step; then both choose
    finish(world)


def test_a_branch_of_two_tokens_can_wait_and_one_of_one_token_is_never_computed(folder: Path) -> None:
    world = made(folder)
    world.group("g", [2, 30], 3)
    world.group("short", [30, 1], 3)
    read: set[str] = set()
    schedule = world.scheduler.schedule

    def watched() -> Any:
        output = schedule()
        read.update(output.num_scheduled_tokens)
        return output

    world.scheduler.schedule = watched
    ends = finish(world)
    assert ends["g.0"] == ends["g.1"] == "length"
    assert ends["short.0"] == "error: a prompt of one token cannot wait for the other branches before it samples"
    assert read == {"g.0", "g.1"}


# Coming and going


def test_an_incomplete_group_waits_while_others_run(folder: Path) -> None:
    world = made(folder)
    branch(world, "g", 0)
    world.add("plain", 20, 4)
    for _ in range(6):
        world.step()
    assert world.ends == {"plain": ("length", None)}
    assert world.scheduler.requests["g.0"].num_computed_tokens == 0
    branch(world, "g", 1, length=40)
    assert finish(world) == {"plain": "length", "g.0": "length", "g.1": "length"}


def test_an_engine_that_waits_for_a_branch_sleeps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its loop would use a whole core."""
    rests: list[float] = []
    monkeypatch.setattr("decoding.lockstep.scheduler.time.sleep", rests.append)
    world = made(folder)
    branch(world, "g", 0)
    for _ in range(3):
        world.step()
    assert rests == [0.001] * 3
    branch(world, "g", 1)
    assert set(finish(world).values()) == {"length"}
    world.step()
    assert len(rests) == 3  # neither while it works nor when it is empty


def test_groups_whose_branches_arrive_in_turn_are_admitted_whole(folder: Path) -> None:
    world = made(folder, sequences=2)
    for index in (0, 1):
        for group in "abc":
            branch(world, group, index, length=20 + 10 * index)
    order: list[str] = []
    while world.scheduler.has_unfinished_requests():
        world.step()
        order += [name for name in world.whole if name not in order]
    assert order == ["a", "b", "c"]
    assert set(finish(world).values()) == {"length"}
    assert world.scheduler.counts["stalls"] == world.scheduler.counts["preempted"] == 0


def test_a_group_has_the_place_in_the_queue_of_its_last_branch(folder: Path) -> None:
    world = made(folder, sequences=2)
    branch(world, "late", 0)
    world.group("first", [20, 20], 5)
    world.add("plain", 20, 5)
    branch(world, "late", 1)
    finish(world)
    assert list(world.ends) == ["first.0", "first.1", "plain", "late.0", "late.1"]


def test_an_abort_before_the_group_is_complete_ends_it_and_nothing_hangs(folder: Path) -> None:
    world = made(folder)
    branch(world, "g", 0)
    world.scheduler.finish_requests("g.0", RequestStatus.FINISHED_ABORTED)
    branch(world, "g", 1)
    world.group("other", [20, 30], 5)
    assert finish(world) == {"g.1": "abort", "other.0": "length", "other.1": "length"}
    assert world.tokens["g.1"] == []
    branch(world, "g", 0)  # the name is free again
    branch(world, "g", 1)
    assert finish(world)["g.0"] == "length"


def test_a_request_that_vllm_blocks_stays_blocked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM does so while it compiles the grammar of a structured output."""
    blocked = {"plain", "g.1"}
    own = simulate.LockstepScheduler.__bases__[0]
    monkeypatch.setattr(own, "_handle_blocked_waiting_request", lambda self, request: request.request_id not in blocked)
    world = made(folder)
    world.add("plain", 20, 3)
    world.group("g", [20, 30], 3)
    world.group("other", [20, 30], 3)
    until(world, lambda: "other.0" in world.ends)
    assert world.ends.keys() == {"other.0", "other.1"}
    assert world.scheduler.requests["plain"].num_computed_tokens == 0
    blocked.clear()
    assert set(finish(world).values()) == {"length"}


def test_an_abort_while_the_model_runs_ends_the_group_and_is_no_violation(folder: Path) -> None:
    world = made(folder)
    world.group("g", [20, 30], 50)
    world.group("other", [20, 30], 9)

    def meddle(own: dict[int, int], ids: list[str]) -> dict[int, int]:
        if len(world.tokens["g.0"]) == 3:
            world.scheduler.finish_requests("g.1", RequestStatus.FINISHED_ABORTED)
        return own

    world.meddle = meddle
    assert finish(world) == {"g.0": "abort", "other.0": "length", "other.1": "length"}
    assert len(world.tokens["g.0"]) <= 4
    assert world.scheduler.counts["violations"] == 0


def test_a_branch_of_another_count_ends_alone(folder: Path) -> None:
    world = made(folder)
    branch(world, "g", 0)
    world.add("odd", 20, 5, BranchMetadata("g", 1, 3, simulate.ARM))
    branch(world, "g", 1)
    ends = finish(world)
    assert ends.pop("odd") == "error: group g has its branch 1 already, or another number of branches"
    assert set(ends.values()) == {"length"}
    assert ends.keys() == {"g.0", "g.1"}


def test_more_branches_than_tokens_in_a_step_are_refused(folder: Path) -> None:
    world = made(folder, budget=8, sequences=8)
    world.scheduler.max_num_scheduled_tokens = 4
    world.group("wide", [20] * 5, 5)
    world.group("fits", [20] * 4, 5)
    ends = finish(world)
    assert ends["wide.4"] == "error: 5 branches in an engine that runs 4 requests at once"
    assert ends["fits.3"] == "length"


def test_the_scheduler_checks_the_configuration_too(folder: Path) -> None:
    engine = simulate.config(folder, 64, 8, False)
    engine.scheduler_config.policy = "priority"
    with pytest.raises(ValueError, match="the priority policy preempts single branches"):
        simulate.scheduler(engine, 20)


# Room


def test_a_paused_engine_ends_no_group(folder: Path) -> None:
    world = made(folder)
    world.group("g", [20, 30], 6)
    until(world, lambda: len(world.tokens["g.0"]) == 2)
    world.scheduler.set_pause_state(PauseState.PAUSED_ALL)
    for _ in range(3):
        world.step()
    assert not world.ends
    world.scheduler.set_pause_state(PauseState.UNPAUSED)
    assert finish(world) == {"g.0": "length", "g.1": "length"}
    assert world.scheduler.counts["stalls"] == world.scheduler.counts["preempted"] == 0


def test_a_group_without_room_blocks_what_is_behind_it(folder: Path) -> None:
    """Otherwise small requests could overtake it forever."""
    world = made(folder, blocks=21)
    world.group("first", [100, 100], 30)
    world.group("second", [100, 100], 5)
    world.add("small", 5, 5)
    first, second, small = (world.scheduler.requests[name] for name in ("first.0", "second.0", "small"))
    until(world, lambda: second.num_computed_tokens or small.num_computed_tokens)
    assert first.is_finished()
    assert second.num_computed_tokens
    assert set(finish(world).values()) == {"length"}
    assert world.scheduler.counts["preempted"] == 0


def test_blocks_that_an_admitted_group_still_needs_stay_reserved(folder: Path) -> None:
    """Both are long and computed in small chunks. The second must wait although blocks are free when it arrives."""
    world = made(folder, blocks=24, budget=16)
    world.group("first", [150, 150], 5)
    world.group("second", [100, 100], 5)
    second = world.scheduler.requests["second.0"]
    until(world, lambda: world.tokens["first.0"] or second.num_computed_tokens)
    assert second.num_computed_tokens == 0
    assert set(finish(world).values()) == {"length"}
    assert world.scheduler.counts["preempted"] == world.scheduler.counts["partly preempted"] == 0


def test_blocks_of_ordinary_requests_are_counted_too(folder: Path) -> None:
    world = made(folder, blocks=21, budget=32)
    world.group("g", [100, 100], 5)
    world.add("plain", 150, 5)
    plain = world.scheduler.requests["plain"]
    until(world, lambda: world.tokens["g.0"] or plain.num_computed_tokens)
    assert plain.num_computed_tokens == 0
    assert set(finish(world).values()) == {"length"}
    assert world.scheduler.counts["preempted"] == world.scheduler.counts["partly preempted"] == 0


def test_a_group_with_a_branch_that_vllm_preempts_is_preempted_whole(folder: Path) -> None:
    world = made(folder)
    world.group("g", [20, 30, 40], 9)
    world.group("other", [20, 30], 9)
    until(world, lambda: len(world.tokens["g.0"]) == 3)
    preempted = world.scheduler.requests["g.1"]
    world.scheduler.running.remove(preempted)
    world.scheduler._preempt_request(preempted, 0.0)
    world.step()
    for name in ("g.0", "g.2"):
        assert world.scheduler.requests[name].status == RequestStatus.PREEMPTED
    assert (world.scheduler.counts["partly preempted"], world.scheduler.counts["preempted"]) == (1, 2)
    assert world.whole == ["other"]
    assert set(finish(world).values()) == {"length"}
    assert agree(world, "g.0", "g.1", "g.2")


@pytest.mark.parametrize("ending", [False, True])
def test_a_stall_preempts_the_youngest_group_unless_another_ends(folder: Path, ending: bool) -> None:
    """Nothing could be scheduled in a step. If a group is ending, it makes room without a preemption."""
    world = made(folder)
    world.group("old", [20, 20], 50)
    world.group("young", [20, 20], 50)
    world.add("plain", 20, 50)
    until(world, lambda: len(world.tokens["young.0"]) > 2)
    old, young = (world.scheduler.groups[name] for name in ("old", "young"))
    if ending:
        world.scheduler.finish_requests("old.0", RequestStatus.FINISHED_ABORTED)
        old.check_end(60)
    world.scheduler._resolve_stall()
    assert [len(group.running) for group in (old, young)] == ([1, 2] if ending else [2, 0])
    assert young.final_status is None
    assert world.scheduler.counts["stalls"] == (not ending)
    ends = finish(world)
    assert ends["young.0"] == ends["young.1"] == ends["plain"] == "length"
    assert agree(world, "young.0", "young.1")


def test_a_stall_of_ordinary_requests_preempts_no_group(folder: Path) -> None:
    world = made(folder)
    world.add("plain", 20, 5)
    world.group("waits", [20, 20], 5)
    world.scheduler.max_num_active_reqs = 1
    until(world, lambda: world.tokens["plain"])
    world.scheduler._resolve_stall()
    assert world.scheduler.counts["stalls"] == 0
    world.scheduler.max_num_active_reqs = 8
    assert set(finish(world).values()) == {"length"}


def test_groups_that_fill_the_cache_together_all_finish(folder: Path) -> None:
    """The last group is preempted whole and keeps its tokens, and no group fails as too large."""
    world = made(folder, blocks=30)
    for g in range(3):
        world.group(f"g{g}", [60, 60], 60)
    chosen: list[str] = []
    while world.scheduler.has_unfinished_requests():
        world.step()
        chosen += world.whole
    assert set(finish(world).values()) == {"length"}
    assert all(len(world.tokens[f"g{g}.0"]) == 60 for g in range(3))
    assert all(agree(world, f"g{g}.0", f"g{g}.1") for g in range(3))
    assert world.scheduler.counts["preempted"] > 0
    ends = [len(chosen) - chosen[::-1].index(f"g{g}") for g in range(3)]
    assert ends == sorted(ends)  # in the order of their coming


def test_an_ordinary_request_is_preempted_before_a_group(folder: Path) -> None:
    """The group's next token needs two blocks, and none is free."""
    world = made(folder, blocks=17)
    world.group("g", [90, 90], 20)
    world.add("plain", 50, 30)
    plain, group = world.scheduler.requests["plain"], world.scheduler.groups["g"]
    until(world, lambda: world.scheduler.counts["preempted"])
    assert plain.status == RequestStatus.PREEMPTED
    assert len(group.running) == 2
    assert world.whole == ["g"]
    assert world.scheduler.counts["preempted"] == 1
    assert set(finish(world).values()) == {"length"}
    assert len(world.tokens["plain"]) == 30


def test_a_fully_cached_prompt_still_waits_for_its_group(folder: Path) -> None:
    world = made(folder, prefix=True, blocks=100)
    for name in ("one", "two"):
        world.group(name, [33, 65], 4, shared=65)
        finish(world)
    assert world.scheduler.counts["shortened hits"] == 2
    assert world.scheduler.requests == {}
    assert agree(world, "two.0", "two.1")


pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")


RUNNING, WAITING = RequestStatus.RUNNING, RequestStatus.WAITING


def request(status: Any = RUNNING, tokens: int = 20, computed: int = 19, in_flight: int = 0) -> Any:
    finished = RequestStatus.is_finished(status)
    return SimpleNamespace(
        status=status,
        num_tokens=tokens,
        num_computed_tokens=computed,
        num_output_placeholders=in_flight,
        is_finished=lambda: finished,
    )


def group_of(*members: Any, size: int = 2) -> RequestGroup:
    return RequestGroup("g", size, members=dict(enumerate(members)))


def test_it_can_sample_when_all_its_branches_lack_one_token() -> None:
    assert group_of(request(), request(tokens=7, computed=6)).can_sample
    assert not group_of(request(), request(computed=18)).can_sample
    assert not group_of(request(), request(computed=20)).can_sample
    assert not group_of(request(), request(WAITING)).can_sample
    # A step in flight brings the token that the next step computes.
    assert group_of(request(computed=20, in_flight=1), request(tokens=7, computed=7, in_flight=1)).can_sample
    assert not group_of(request(computed=20, in_flight=1), request(computed=19, in_flight=1)).can_sample
    ended = group_of(request(), request())
    ended.fail("why")
    assert not ended.can_sample


def test_its_branches_are_listed_in_order() -> None:
    first, second = request(), request(WAITING)
    made = RequestGroup("g", 2, members={1: second, 0: first})
    assert made.requests == [first, second]
    assert made.running == [first]
    assert made.is_complete
    assert not group_of(first, size=3).is_complete


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_STOPPED),
        (RequestStatus.FINISHED_LENGTH_CAPPED, RequestStatus.FINISHED_LENGTH_CAPPED),
        (RequestStatus.FINISHED_ABORTED, RequestStatus.FINISHED_ABORTED),
        (RequestStatus.FINISHED_IGNORED, RequestStatus.FINISHED_ABORTED),
        (RequestStatus.FINISHED_ERROR, RequestStatus.FINISHED_ABORTED),
    ],
)
def test_the_end_of_one_branch_is_the_end_of_all(status: Any, verdict: Any) -> None:
    made = group_of(request(), request(status))
    made.check_end(60)
    assert (made.final_status, made.reason) == (verdict, None)


def test_it_waits_for_its_branches_until_the_timeout() -> None:
    made = group_of(request(WAITING), size=3)
    made.check_end(60)
    assert made.final_status is None
    made.created = time.monotonic() - 61.5
    made.check_end(90)
    assert made.final_status is None
    made.check_end(60)
    assert made.final_status == RequestStatus.FINISHED_ERROR
    assert made.reason == "1 of 3 branches arrived within 60 s: [0]"
    whole = group_of(request(WAITING), request())
    whole.created = made.created
    whole.check_end(60)
    assert whole.final_status is None


def test_the_first_final_status_stands() -> None:
    made = group_of(request(), request())
    made.end(RequestStatus.FINISHED_STOPPED)
    made.fail("too late")
    assert (made.final_status, made.reason) == (RequestStatus.FINISHED_STOPPED, None)


def test_groups_are_distinguished_by_identity() -> None:
    assert len({group_of(request()), group_of(request())}) == 2


def test_a_cached_state_at_the_last_token_is_not_used_because_no_earlier_one_is_stored(folder: Path) -> None:
    engine = simulate.config(folder, 64, 8, True)
    world = simulate.World(simulate.scheduler(engine, 100, recurrent=True), random.Random(1), stop_rate=0.0)
    world.group("one", [33, 70], 4, shared=70)
    finish(world)
    world.group("two", [33, 70], 4, shared=70)
    hits = [world.scheduler._get_local_prefix_cache_hit(r)[1] for r in world.scheduler.groups["two"].requests]
    assert hits == [0, 64]
    assert set(finish(world).values()) == {"length"}
