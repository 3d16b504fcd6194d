"""The table of `python -m lab.bench learned` for the model `small`, which takes 70 times longer for a call.

One task and few queries, so `tiny` answers as few for comparison.
"""

from collections.abc import Iterator

from lab.bench import Row
from lab.bench.learned import Size, table


def rows() -> Iterator[Row]:
    """A row for each model and method."""
    for model in ("tiny", "small"):
        yield from table(model, Size(100, 60, 0), ("two rules",))
