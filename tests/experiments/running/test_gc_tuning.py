import gc

import pytest

from experiments.running.gc_tuning import THRESHOLD, infrequent_gc


def test_garbage_is_looked_for_seldom_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with infrequent_gc():
        assert gc.get_threshold() == (max(THRESHOLD, before[0]), *before[1:])
    assert gc.get_threshold() == before
    with pytest.raises(ValueError, match="broken off"), infrequent_gc():
        raise ValueError("broken off")
    assert gc.get_threshold() == before


def test_what_somebody_has_set_is_kept() -> None:
    before = gc.get_threshold()
    try:
        for own in (0, 10 * THRESHOLD):
            gc.set_threshold(own, 5, 5)
            with infrequent_gc():
                assert gc.get_threshold() == (own, 5, 5)
    finally:
        gc.set_threshold(*before)
