"""The summary of a run in a list: its best arm, its state and its time."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from experiments.results.run_list import _best, _state, _time
from experiments.store.json_shapes import IMPORTED
from experiments.store.lock import write_lock


@pytest.mark.parametrize(
    ("better", "words"),
    [("higher", "m .750 (b)"), ("lower", "m .250 (a)"), ("neither", "m .250 (a)")],
)
def test_the_best_arm_is_that_of_the_good_direction(better: str, words: str) -> None:
    scores = pd.DataFrame({"order": ["a", "a", "b", "b", "c"], "m": [0.5, 0.0, 1.0, 0.5, None]})
    view: Any = SimpleNamespace(scores=scores, axes=("order",), metric="m", better=better)
    assert _best(view) == words
    assert _best(SimpleNamespace(**{**vars(view), "scores": scores[:2]})) == "m .250"  # type: ignore[arg-type]  # a view
    assert _best(SimpleNamespace(**{**vars(view), "scores": scores[4:]})) == ""  # type: ignore[arg-type]  # a view


def test_the_state_is_that_of_the_last_session_unless_a_process_runs(tmp_path: Path) -> None:
    sessions = [{"state": "finished"}, {"state": "stopped"}]
    assert _state(tmp_path, {"sessions": sessions}) == "stopped"
    assert _state(tmp_path, {}) == "finished"
    assert _state(tmp_path, {IMPORTED: {}}) == IMPORTED
    assert _state(tmp_path, {IMPORTED: {}, "sessions": sessions}) == "stopped"
    with write_lock(tmp_path):
        assert _state(tmp_path, {"sessions": sessions}) == "running"


def test_the_time_is_the_latest_end_or_else_start() -> None:
    sessions = [
        {"start": "2026-01-03T10:00:00+00:00"},
        {"start": "2026-01-01T10:00:00+00:00", "end": "2026-01-03T12:00:00+02:00"},
        {"state": "running"},
    ]
    assert _time({"sessions": sessions}) == datetime(2026, 1, 3, 10, tzinfo=UTC)
    assert _time({"sessions": sessions[1:]}) == datetime(2026, 1, 3, 10, tzinfo=UTC)
    assert _time({"sessions": sessions[2:]}) is _time({}) is None
