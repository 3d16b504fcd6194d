"""The engine remembers how many rows fit, and repeats little work."""

import pytest

from icl.models.hf.model import HF
from lab.bench.out_of_memory import halving_alone, remembered


@pytest.mark.parametrize(
    ("budget", "before", "now"), [(64, (4, 7200), (1, 5440)), (240, (7, 12_000), (3, 9000)), (40, (0, 4800), (0, 4800))]
)
def test_failures_and_row_forwards_of_240_answers_where_40_rows_fit(
    budget: int, before: tuple[int, int], now: tuple[int, int]
) -> None:
    assert halving_alone(budget) == before
    assert remembered(HF(path="tiny", dtype="float32", device="cpu"), budget) == now
