"""Frames of samples with known scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

from experiments.results.run_metrics import run_level
from experiments.stats.arms import tidy_frame

Make = Callable[..., pd.DataFrame]


@pytest.fixture
def arm() -> Make:
    """`arm([1, 0, 1], seeds=2)`: one arm with the scores of queries 0, 1, ... (one row per seed, or equal)."""

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


@pytest.fixture
def tidied() -> Make:
    """`tidied("f1", [1, 0, None], ["yes", "no", "no"])`: a cell with a run-level metric in the column `m`.

    The numbers are the samples' own, None where one failed.
    """

    def make(
        metric: str,
        scores: Sequence[float | None],
        gold: Sequence[str],
        *,
        groups: Sequence[str] | None = None,
        cell: str = "c",
        **more: Any,
    ) -> pd.DataFrame:
        answers = ["yes" if score == 1 else "no" for score in scores]
        columns = {
            "cell": cell,
            "seed": 0,
            "query": [f"q{i}" for i in range(len(scores))],
            "output": answers,
            "m": scores,
        }
        columns |= {"gold": [[answer] for answer in gold], "group": list(groups) if groups else None, **more}
        frame = pd.DataFrame(columns)
        frame["failed"] = [None if score is not None else "gone" for score in scores]
        return tidy_frame(run_level(frame, {"metrics": {"m": {"name": metric, "run_level": True}}}, ()), ())

    return make


def _at(columns: Mapping[str, Any], i: int, seed: int) -> dict[str, Any]:
    return {key: value[i] if isinstance(value, list) else value for key, value in columns.items()}
