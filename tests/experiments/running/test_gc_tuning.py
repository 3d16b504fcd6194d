import gc
from collections.abc import Iterator

import pytest

from experiments.running.gc_tuning import THRESHOLD, infrequent_gc


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_garbage_is_looked_for_seldom_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 5, 6)
    with infrequent_gc():
        assert gc.get_threshold() == (THRESHOLD, 5, 6)
    assert gc.get_threshold() == (700, 5, 6)
    with pytest.raises(ValueError, match="broken off"), infrequent_gc():
        raise ValueError("broken off")
    assert gc.get_threshold() == (700, 5, 6)


@pytest.mark.parametrize("own", [0, 10 * THRESHOLD])
def test_what_somebody_has_set_is_kept(own: int) -> None:
    gc.set_threshold(own, 5, 5)
    with infrequent_gc():
        assert gc.get_threshold() == (own, 5, 5)
    assert gc.get_threshold() == (own, 5, 5)
