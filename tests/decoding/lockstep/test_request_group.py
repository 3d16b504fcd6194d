"""A group's own rules: when it may choose, when it is over, and what it says then."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

from vllm.v1.request import RequestStatus

from decoding.lockstep.request_group import RequestGroup

RUNNING, WAITING = RequestStatus.RUNNING, RequestStatus.WAITING


def request(status: Any = RUNNING, tokens: int = 20, computed: int = 19) -> Any:
    finished = RequestStatus.is_finished(status)
    return SimpleNamespace(status=status, num_tokens=tokens, num_computed_tokens=computed, is_finished=lambda: finished)


def gang(*members: Any, size: int = 2) -> RequestGroup:
    return RequestGroup("g", size, members=dict(enumerate(members)))


def test_it_may_choose_when_all_its_branches_lack_one_token() -> None:
    assert gang(request(), request(tokens=7, computed=6)).ready
    assert not gang(request(), request(computed=18)).ready
    assert not gang(request(), request(computed=20)).ready
    assert not gang(request(), request(WAITING)).ready
    ended = gang(request(), request())
    ended.fail("why")
    assert not ended.ready


def test_its_branches_are_told_in_order() -> None:
    first, second = request(), request(WAITING)
    made = RequestGroup("g", 2, members={1: second, 0: first})
    assert made.requests == [first, second]
    assert made.running == [first]
    assert made.complete
    assert not gang(first, size=3).complete


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
    made = gang(request(), request(status))
    made.judge(60)
    assert (made.verdict, made.reason) == (verdict, None)


def test_it_waits_for_its_branches_as_long_as_patience_lasts() -> None:
    made = gang(request(WAITING), size=3)
    made.judge(60)
    assert made.verdict is None
    made.born = time.monotonic() - 61.5
    made.judge(90)
    assert made.verdict is None
    made.judge(60)
    assert made.verdict == RequestStatus.FINISHED_ERROR
    assert made.reason == "1 of 3 branches came within 60 s: [0]"
    whole = gang(request(WAITING), request())
    whole.born = made.born
    whole.judge(60)
    assert whole.verdict is None


def test_the_first_verdict_stands() -> None:
    made = gang(request(), request())
    made.end(RequestStatus.FINISHED_STOPPED)
    made.fail("too late")
    assert (made.verdict, made.reason) == (RequestStatus.FINISHED_STOPPED, None)


def test_groups_are_told_apart_by_themselves() -> None:
    assert len({gang(request()), gang(request())}) == 2
