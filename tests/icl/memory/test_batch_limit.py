"""A limit halves what failed, never tries it again, and grows slowly below it."""

import copy

from icl.memory.batch_limit import FULL_BATCHES, BatchLimit


def test_a_size_that_failed_is_halved_and_not_tried_again() -> None:
    limit = BatchLimit(64)
    assert limit.fits(64)
    assert not limit.fits(65)
    limit.record_failure(60)
    assert (limit.now, limit.failed) == (30, 60)
    for _ in range(100):
        assert limit.now < 60
        limit.record_fit(limit.now)
    assert limit.now * 1.25 >= 60


def test_a_limit_grows_by_a_quarter_after_four_full_batches_up_to_its_budget() -> None:
    limit = BatchLimit(100)
    limit.record_failure(100)
    sizes = []
    for _ in range(3 * FULL_BATCHES):
        sizes.append(limit.now)
        limit.record_fit(limit.now)
    assert sizes == [50] * 4 + [62] * 4 + [77] * 4
    small = BatchLimit(100)
    small.record_failure(100)
    for _ in range(20):
        small.record_fit(40)  # not full: 50 / 1.25
    assert small.now == 50


def test_a_smaller_failure_lowers_a_limit_that_was_lowered_before() -> None:
    limit = BatchLimit(100)
    limit.record_failure(100)
    limit.record_failure(80)  # a single context above the limit
    assert (limit.now, limit.failed) == (40, 80)
    limit.record_failure(90)
    assert (limit.now, limit.failed) == (40, 80)


def test_a_limit_returns_to_an_earlier_state() -> None:
    limit = BatchLimit(100)
    limit.record_failure(90)
    before = copy.copy(limit)
    limit.record_failure(3)
    limit.forget_since(before)
    assert limit == before
