"""How much narrower the intervals of differences between numbers of shots are if the larger set contains the smaller.

The model `tiny` answers binding with 4 names at 2, 4 and 8 random shots. With the same seed, the sets are nested. A
smaller set is also paired with the larger sets of the other seeds, which are drawn independently. Both pairings have
the same queries and samples. `python -m lab.bench nested_shots` prints the rows.
"""

import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

from lab.bench import Row, rounds

SHOTS = (2, 4, 8)
SEEDS = 5
QUERIES = 200
NORMAL = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def rows() -> list[Row]:
    """A row for each order and pair of numbers of shots."""
    from experiments.config.config import load_config
    from experiments.results.loaded_run import load_run
    from experiments.running.run import run

    config = {
        "name": "nested",
        "task": {"name": "binding", "ways": 4, "queries": QUERIES if rounds(2) > 1 else 10},
        "model": {"name": "hf", "path": "tiny"},
        "seeds": list(range(SEEDS)),
        "max_new_tokens": 8,
        "grid": {"shots": list(SHOTS), "order": ["reversed", "as_retrieved"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        frame = load_run(run(load_config(config), Path(folder)).folder).samples()
    right: Any = frame.set_index(["order", "shots", "seed", "query"])["lenient"].astype(float).unstack("query")
    table = []
    for order in ("reversed", "as_retrieved"):
        for few, many in combinations(SHOTS, 2):
            pairs = [(a, b) for a in range(SEEDS) for b in range(SEEDS)]
            widths = {(a, b): _half_width(right.loc[order, many, b] - right.loc[order, few, a]) for a, b in pairs}
            nested = _mean([width for (a, b), width in widths.items() if a == b])
            independent = _mean([width for (a, b), width in widths.items() if a != b])
            figure = f"±{nested:.3f} nested, ±{independent:.3f} independent: {1 - nested / independent:.0%} narrower"
            table.append((f"{many} against {few} shots, {order}, {right.shape[1]} queries", figure, ""))
    return table


def _half_width(differences: Any) -> float:
    return float(NORMAL * differences.std() / len(differences) ** 0.5)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
