"""Which of a server's engines a request goes to; no server is needed."""

import contextlib

import pytest

from decoding.server.placement import EngineBalancer, Placement


def test_seats_go_to_the_engine_with_the_fewest_branches() -> None:
    seats = EngineBalancer(2)
    with seats.taken(8) as first, seats.taken(2) as second, seats.taken(2) as third:
        assert first.rank != second.rank == third.rank
        assert sorted(seats.busy) == [4, 8]
    assert seats.busy == [0, 0]


def test_engines_as_busy_take_turns() -> None:
    for engines in (2, 3, 5):
        seats, ranks = EngineBalancer(engines), []
        for _ in range(2 * engines):
            with seats.taken(1) as seat:
                ranks.append(seat.rank)
        assert ranks == [*range(1, engines), 0] * 2
    seats = EngineBalancer(3)
    with seats.taken(1) as one, seats.taken(1) as two, seats.taken(1) as three, seats.taken(1) as four:
        assert [seat.rank for seat in (one, two, three, four)] == [1, 2, 0, 1]


def test_a_seat_is_free_again_however_its_request_ended() -> None:
    seats = EngineBalancer(2)
    with contextlib.suppress(RuntimeError), seats.taken(3):
        raise RuntimeError
    assert seats.busy == [0, 0]


def test_one_engine_needs_no_rank() -> None:
    seats = EngineBalancer(1)
    assert not seats.several
    with seats.taken(4, "lora") as seat:
        assert seat == Placement("lora", None)
    assert EngineBalancer(2).several


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_seat_is_said_as_vllm_takes_it(adapter: str | None) -> None:
    with EngineBalancer(3).taken(2, adapter) as seat:
        assert seat.arguments() == {"lora_request": adapter, "data_parallel_rank": 1}
