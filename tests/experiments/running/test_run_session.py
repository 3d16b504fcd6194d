"""The record of one call of the runner in run.json."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.running import run_session
from experiments.running.run_session import RunSession, describe_grid, refresh_run_file, sum_counters
from experiments.store.invocations import Invocation
from experiments.store.store import Store
from icl.errors import StoreError


@pytest.fixture
def grid(mapping: Callable[..., dict[str, Any]]) -> Grid:
    """Two cells of six queries in four groups."""
    return expand(load_config(mapping(shots=None, grid={"shots": [0, 1]})))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "t")


def _session(store: Store, grid: Grid) -> RunSession:
    return RunSession(store, grid, Invocation(store))


def _stored(store: Store) -> list[dict[str, Any]]:
    return (store.read_run() or {})["sessions"]


def _model(digest: str, **counters: int) -> Any:
    return SimpleNamespace(digest=digest, counters=lambda: counters)


def test_a_config_is_described_by_its_cells_and_their_sizes(store: Store, grid: Grid) -> None:
    content = describe_grid(store, grid)
    assert content["cells"] == [cell.digest for cell in grid.cells]
    assert (content["sizes"], content["clusters"]) == ([6, 6], [4, 4])
    assert describe_grid(store, grid, [3, 2])["sizes"] == [3, 2]
    assert (store.folder / content["folder"]).resolve() == grid.config.document.folder.resolve()


def test_a_session_is_in_the_file_while_it_runs_and_after_it(store: Store, grid: Grid) -> None:
    for number in (1, 2):
        with _session(store, grid) as session:
            assert [one["state"] for one in _stored(store)] == ["finished"] * (number - 1) + ["running"]
            assert _stored(store)[-1]["invocation"] == number
            session.count(_model("m", steps=2))
        assert len(_stored(store)) == number
    assert _stored(store)[-1]["counters"]["steps"] == 2
    assert _stored(store)[-1]["end"] >= _stored(store)[-1]["start"]
    assert "reason" not in _stored(store)[-1]


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (ValueError("broken"), "stopped"), (None, "stopped")]
)
def test_a_session_that_ends_early_has_its_reason(
    store: Store, grid: Grid, error: BaseException | None, state: str
) -> None:
    try:
        with _session(store, grid) as session:
            session.stop_reason = "an arm failed"
            if error:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    last = _stored(store)[-1]
    reasons = {"interrupted": None, "stopped": "broken" if error else "an arm failed"}
    assert (last["state"], last.get("reason")) == (state, reasons[state])


def test_counters_of_models_and_of_the_engine_are_added(store: Store, grid: Grid) -> None:
    with _session(store, grid) as session:
        session.count(_model("a", steps=2, decoding_requests=1))
        session.count(_model("a", steps=3, decoding_requests=2))
        session.count(_model("b", steps=4))
        session.count(_model("c"))
        assert set(session.models) == {"a", "b"}
        session.counters.decoding_requests = 5
        counted = session.counted()
    assert (counted["counters"]["steps"], counted["counters"]["decoding_requests"]) == (7, 7)


def test_counters_are_saved_when_the_last_write_is_old(
    store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=100.0)
    monkeypatch.setattr(run_session.time, "monotonic", lambda: clock.time)
    with _session(store, grid) as session:
        for seconds, steps in ((10.0, None), (10.5, 2), (20.5, 2), (20.6, 4)):
            clock.time = 100 + seconds
            session.save(_model("m", steps=int(2 * (seconds // 10))))
            assert _stored(store)[-1].get("counters", {}).get("steps") == steps
            assert _stored(store)[-1]["state"] == "running"


def test_a_disk_that_is_full_at_the_end_hides_no_earlier_error(
    store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    with pytest.raises(ValueError, match="first"), _session(store, grid):  # noqa: PT012  # the end of the block writes
        monkeypatch.setattr(Store, "write_run", full)
        raise ValueError("first")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="the disk is full"), _session(store, grid):
        monkeypatch.setattr(Store, "write_run", full)


def test_a_finished_run_is_brought_up_to_date_and_else_left_alone(
    store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _session(store, grid):
        pass
    run = store.read_run() or {}
    first, *_ = run["sessions"]
    store.write_run({**run, "sessions": [{**first, "state": "stopped"}, {**first, "state": "running"}], "own": 1})
    refresh_run_file(store, grid, [4, 6])
    after = store.read_run() or {}
    assert [one["state"] for one in after["sessions"]] == ["stopped", "finished"]
    assert (after["sizes"], after["own"]) == ([4, 6], 1)
    assert all(store.read_cell(cell.digest) for cell in grid.cells)
    monkeypatch.setattr(Store, "write_run", lambda *_: pytest.fail("nothing has changed"))
    refresh_run_file(store, grid, [4, 6])


def test_counters_are_added_by_name() -> None:
    assert sum_counters([{"a": 1, "of": {"x": 1}}, {"a": 2, "b": 1, "of": {"x": 2, "y": 5}}, {}]) == {
        "a": 3,
        "b": 1,
        "of": {"x": 3, "y": 5},
    }
