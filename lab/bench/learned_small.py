"""The table of `python -m lab.bench learned` for `small`: one task and few queries, as a call takes 70 times longer."""

from collections.abc import Iterator

from lab.bench import Row
from lab.bench.learned import Size, table


def rows() -> Iterator[Row]:
    """A row for each method."""
    return table("small", Size(100, 60, 0), ("two rules",))
