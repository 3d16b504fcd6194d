"""The table of `python -m lab.bench learned` for the model `small`, which takes 70 times longer for a call.

Fewer queries and calls, so `tiny` answers as few for comparison. A task at a time: a stopped command has whole rows.

    python -m lab.bench learned_small train=100 test=60 oracle=0 task="two rules"
    python -m lab.bench learned_small train=0 test=4 oracle=4

The second command fits no head: it measures the oracle, which takes 64 to 96 calls a query.
"""

from collections.abc import Iterator

from lab.bench import Row
from lab.bench.learned import Size, table

NAMES = ("wrong labels in half of the pool", "operators", "style shift", "two rules", "misleading half")


def rows(train: int = 50, test: int = 40, oracle: int = 4, task: str = "") -> Iterator[Row]:
    """A row for each task, model and method. Numbers as in `Size`. task: a name of `learned.TASKS`, default `NAMES`."""
    for name in [task] if task else NAMES:
        for model in ("tiny", "small"):
            yield from table(model, Size(train, test, oracle), (name,))
