"""The rules of a group: when it can sample, when it ends, and its error message."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

from vllm.v1.request import RequestStatus

from decoding.lockstep.request_group import RequestGroup

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
