"""Frames of samples with known scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

Make = Callable[..., pd.DataFrame]


@pytest.fixture
def arm() -> Make:
    """`arm([1, 0, 1], seeds=2, shots=4)`: one arm; scores of query 0, 1, ... (a row a seed, or the same in each)."""

    def make(
        scores: Sequence[Any], *, seeds: int = 1, groups: Mapping[int, str] | None = None, **columns: Any
    ) -> pd.DataFrame:
        rows = []
        for seed in range(seeds):
            own = scores[seed] if isinstance(scores[0], list) else scores
            for i, score in enumerate(own):
                group = (groups or {}).get(i)
                rows.append({"query": f"q{i}", "seed": seed, "group": group, "lenient": score, **_at(columns, i, seed)})
        return pd.DataFrame(rows)

    return make


def _at(columns: Mapping[str, Any], i: int, seed: int) -> dict[str, Any]:
    return {key: value[i] if isinstance(value, list) else value for key, value in columns.items()}
