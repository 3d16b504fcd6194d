"""The choice of a server's engine for a request. No server is needed."""

import contextlib

import pytest

from decoding.server.placement import EngineBalancer, Placement


def test_a_request_goes_to_the_engine_with_the_fewest_branches() -> None:
    balancer = EngineBalancer(2)
    with balancer.place(8) as first, balancer.place(2) as second, balancer.place(2) as third:
        assert first.rank != second.rank == third.rank
        assert sorted(balancer.branches) == [4, 8]
    assert balancer.branches == [0, 0]


def test_engines_with_equally_many_branches_take_turns() -> None:
    for engines in (2, 3, 5):
        balancer, ranks = EngineBalancer(engines), []
        for _ in range(2 * engines):
            with balancer.place(1) as placement:
                ranks.append(placement.rank)
        assert ranks == [*range(1, engines), 0] * 2
    balancer = EngineBalancer(3)
    with balancer.place(1) as one, balancer.place(1) as two, balancer.place(1) as three, balancer.place(1) as four:
        assert [placement.rank for placement in (one, two, three, four)] == [1, 2, 0, 1]


def test_a_request_is_no_longer_counted_however_it_ended() -> None:
    balancer = EngineBalancer(2)
    with contextlib.suppress(RuntimeError), balancer.place(3):
        raise RuntimeError
    assert balancer.branches == [0, 0]


def test_one_engine_needs_no_rank() -> None:
    balancer = EngineBalancer(1)
    assert not balancer.has_several
    with balancer.place(4, "lora") as placement:
        assert placement == Placement("lora", None)
    assert EngineBalancer(2).has_several


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_placement_has_the_arguments_of_vllm(adapter: str | None) -> None:
    with EngineBalancer(3).place(2, adapter) as placement:
        assert placement.arguments() == {"lora_request": adapter, "data_parallel_rank": 1}
