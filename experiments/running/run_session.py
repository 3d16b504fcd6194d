"""One call of the runner as run.json remembers it: when, what came of it, what it cost.

The cost counters are the model's and the engine's own. Work that several arms shared is counted once, for the run; a
single arm's share of it is not made up. What reading an arm's contrasts late has spared is told by arm, as if it ran
alone.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from experiments.grid.grid import Grid
from experiments.store.environment import collect_environment, now
from experiments.store.run_state import describe_metrics, json_round_trip, write_cells
from experiments.store.store import Store
from icl.errors import StoreError

if TYPE_CHECKING:
    from icl.models.base import Model

SAVE_EVERY = 10.0
"""Seconds between two updates of run.json while samples are computed."""


def describe_grid(grid: Grid) -> dict[str, Any]:
    """What the config says, as run.json keeps it: which cells, of how many samples, and which metrics a table has."""
    config = grid.config
    return {
        "file": config.document.name,
        "config": config.document.data,
        "cells": [cell.digest for cell in grid.cells],
        "sizes": [len(cell.task.queries) for cell in grid.cells],
        "metrics": describe_metrics(grid),
    }


def refresh_run_file(store: Store, grid: Grid) -> None:
    """Lets a run of which no sample is missing say what its config says now, and that it is finished.

    It says otherwise where its process was killed behind the last sample.
    """
    told, now_said = store.read_run() or {}, json_round_trip(describe_grid(grid))
    *before, last = told.get("sessions") or [{}]
    if last.get("state", "finished") != "finished":
        now_said["sessions"] = [*before, {**last, "state": "finished"}]
    if any(told.get(key) != value for key, value in now_said.items()):
        write_cells(store, grid)
        store.write_run({**told, **now_said})


class CostLog:
    """Counts what models and the engine did, and writes it now and then (`_write` of a subclass)."""

    def __init__(self, store: Store) -> None:
        from decoding.engine.requests import Counters

        self.store = store
        self.counters: Counters = Counters()
        self.models: dict[str, dict[str, int]] = {}
        self.told: dict[str, Any] = {}
        self.saved = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        state = "finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "stopped"
        try:
            self._write({"end": now(), "state": state, **({"reason": str(error)} if state == "stopped" else {})})
        except StoreError:  # a full disk has been told already, with what to do
            if kind is None:
                raise

    def count(self, model: "Model") -> None:
        """Takes over the model's counters."""
        if counters := model.counters():
            self.models[model.digest] = dict(counters)

    def save(self, model: "Model") -> None:
        """Brings what is written up to date, if that is some time ago."""
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.count(model)
            self._write({})

    def counted(self) -> dict[str, Any]:
        """The models' and the engine's counters together, and the engine's by arm."""
        counters: dict[str, int] = dict(self.counters.to_dict())
        for of in self.models.values():
            for name, value in of.items():
                counters[name] = counters.get(name, 0) + value
        return {"counters": counters, "arms": self.counters.arms_to_dict()}

    def _write(self, more: Mapping[str, Any]) -> None:
        raise NotImplementedError


class RunSession(CostLog):
    """Writes run.json at its start, now and then, and at its end, with how it ended."""

    def __init__(self, store: Store, grid: Grid) -> None:
        super().__init__(store)
        self.grid = grid

    def __enter__(self) -> "RunSession":
        before = self.store.read_run() or {}
        self.told = {
            "name": self.store.folder.name,
            **describe_grid(self.grid),
            **collect_environment(),
            "sessions": [*before.get("sessions", []), {"start": now(), "state": "running"}],
        }
        self.store.write_run(self.told)
        return self

    def _write(self, more: Mapping[str, Any]) -> None:
        session = {**self.told["sessions"][-1], **self.counted(), **more}
        self.told["sessions"] = [*self.told["sessions"][:-1], session]
        self.store.write_run(self.told)
        self.saved = time.monotonic()
