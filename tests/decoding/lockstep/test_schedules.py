"""The scheduler under thousands of random steps: branches sample together despite preemption, and nothing leaks."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import simulate

SEEDS = range(60)


@pytest.fixture(scope="module")
def folder() -> Path:
    import checkpoints

    return checkpoints.shared("llava")


@pytest.fixture(params=[1, 2], ids=["in turn", "planned ahead"])
def steps(request: pytest.FixtureRequest) -> int:
    """Number of steps in flight. With two, a step is planned before the tokens of the step before are known."""
    count: int = request.param
    return count


def random_world(folder: Path, seed: int, steps: int) -> simulate.World:
    """Groups and ordinary requests, some at the start and some later, with a cache that is too small."""
    draw = random.Random(seed)
    budget, sequences = draw.choice([16, 24, 48]), draw.choice([5, 8, 16])
    engine = simulate.config(folder, budget, sequences, prefix=draw.random() < 0.7, steps_in_flight=steps)
    world = simulate.World(simulate.scheduler(engine, blocks=draw.choice([34, 42])), draw)
    pending: list[Any] = []
    for g in range(draw.randrange(4, 12)):
        branches = draw.choice([1, 2, 2, 2, 3, 5])
        lengths = [draw.choice([3, 17, 40, 150 if branches < 3 else 60]) for _ in range(branches)]
        pending.append(lambda g=g, n=lengths: world.group(f"g{g}", n, draw.randrange(1, 40), draw.choice([0, 32])))
    for i in range(draw.randrange(2, 9)):
        pending.append(lambda i=i: world.add(f"plain{i}", draw.choice([5, 30]), draw.choice([3, 60, 200])))
    draw.shuffle(pending)
    for add in pending[: len(pending) // 2]:
        add()
    for add in pending[len(pending) // 2 :]:
        for _ in range(draw.randrange(0, 6)):
            world.step()
        add()
    return world


def crowd(folder: Path, seed: int, steps: int) -> simulate.World:
    """Ordinary requests grow while a long branch is still computed, in a cache that both fill."""
    draw = random.Random(seed)
    engine = simulate.config(folder, 16, 16, draw.random() < 0.5, steps_in_flight=steps)
    world = simulate.World(simulate.scheduler(engine, 26), draw)
    for i in range(8):
        world.add(f"plain{i}", draw.randrange(3, 16), 60)
    for _ in range(draw.randrange(3, 12)):
        world.step()
    for g in range(3):
        world.group(f"g{g}", [draw.randrange(80, 150), draw.randrange(3, 40)], 20)
    return world


def check(world: simulate.World) -> None:
    for name, members in world.members.items():
        outputs = {tuple(world.tokens[m]) for m in members}
        assert len(outputs) == 1, f"{name}: {outputs}"
        assert {world.ends[m][0] for m in members} <= {"stop", "length"}, [world.ends[m] for m in members]
    pool = world.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == world.scheduler.kv_cache_config.num_blocks - 1
    assert not world.scheduler.groups
    assert not world.scheduler.group_of_request
    assert not world.scheduler.admitted


def test_random_schedules_keep_every_group_together(folder: Path, steps: int) -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        world = crowd(folder, seed, steps) if seed % 3 == 0 else random_world(folder, seed, steps)
        world.run()
        check(world)
        counts.update(world.scheduler.counts)
    print(dict(counts))
    assert counts["violations"] == 0
    assert counts["group steps"] > 3000
    assert counts["partly preempted"] >= 10  # vLLM itself preempted one branch alone
    assert counts["preempted"] >= 10


def test_random_preemptions_of_single_branches_keep_every_group_together(folder: Path, steps: int) -> None:
    """vLLM preempts single branches when a cache runs out, at any point of a group's life."""
    num_partly_preempted = 0
    for seed in SEEDS:
        world = random_world(folder, 1000 + seed, steps)
        scheduler = world.scheduler
        while scheduler.has_unfinished_requests() or world.in_flight:
            if scheduler.running and world.draw.random() < 0.2:
                victim = scheduler.running.pop()
                scheduler._preempt_request(victim, 0.0)
            world.step()
            assert world.steps < 20_000
        check(world)
        num_partly_preempted += scheduler.counts["partly preempted"]
        assert scheduler.counts["violations"] == 0
    assert num_partly_preempted > 100


def test_a_step_does_not_examine_groups_that_only_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from decoding.lockstep.scheduler import RequestGroup

    world = simulate.World(simulate.scheduler(simulate.config(folder, 128, 4, False), 40), random.Random(0))
    for g in range(300):
        world.group(f"g{g}", [20, 30], 4)
    checked: list[str] = []
    examined: list[str] = []
    check_end, handle = RequestGroup.check_end, type(world.scheduler)._handle_blocked_waiting_request
    monkeypatch.setattr(
        RequestGroup, "check_end", lambda self, timeout: (checked.append(self.name), check_end(self, timeout))[1]
    )
    monkeypatch.setattr(
        type(world.scheduler),
        "_handle_blocked_waiting_request",
        lambda self, request: (examined.append(request.request_id), handle(self, request))[1],
    )
    for _ in range(20):
        world.step()
    assert len(checked) < 100
    assert len(examined) < 200


def test_groups_take_turns_if_the_budget_is_smaller_than_their_rows(folder: Path) -> None:
    world = simulate.World(simulate.scheduler(simulate.config(folder, 16, 16, False), 200), random.Random(0))
    world.stop_rate = 0.0
    for g in range(4):
        world.group(f"g{g}", [4] * 4, 30)
    while not all(world.tokens[f"g{g}.0"] for g in range(4)):
        world.step()
    before = [len(world.tokens[f"g{g}.0"]) for g in range(4)]
    world.scheduler.max_num_scheduled_tokens = 8  # two of the four groups at a time
    for _ in range(20):
        world.step()
    assert [len(world.tokens[f"g{g}.0"]) - before[g] for g in range(4)] == [10] * 4
    world.run()
    check(world)
