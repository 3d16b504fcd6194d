"""The record of one call of the runner in run.json: its times, how it ended and what it cost.

The counters come from the model and the engine. Work that several arms share is counted once, for the run, and is not
divided among arms. The savings of lazy branches are counted by arm, as if each arm ran alone.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from decoding.engine.requests import Counters
from experiments.grid.grid import Grid
from experiments.store import Invocation, Store, describe_metrics, json_round_trip, now, write_cells
from icl import Model, StoreError, config_nodes

SAVE_EVERY = 10.0
"""Seconds between two updates of run.json while samples are computed."""


@dataclass(frozen=True)
class RunOutcome:
    """The result of one call of `icl run`: of all its workers, or of one process (`Runner.run`).

    Attributes:
        folder: The run directory.
        samples: Samples of the grid.
        present: Samples that were finished before.
        computed: Samples that were computed now.
        failed: Samples without an answer, of those that this process or launch computed.
        warnings: The grid's warnings.
        missing: Samples that a worker should have computed and did not.
        jobs: Jobs that were submitted and are not waited for.
    """

    folder: Path
    samples: int
    present: int
    computed: int
    failed: int
    warnings: tuple[str, ...] = ()
    missing: int = 0
    jobs: tuple[str, ...] = ()


def describe_grid(store: Store, grid: Grid, sizes: Sequence[int] | None = None) -> dict[str, Any]:
    """The fields of run.json that describe the config: cells, numbers of samples and clusters, metrics.

    Args:
        store: The run directory, to which the folder of the config is relative.
        grid: The cells.
        sizes: The number of samples of each cell, if comparisons have ended early.
    """
    config = grid.config
    return {
        "file": config.document.name,
        "folder": os.path.relpath(config.document.folder.resolve(), store.folder.resolve()),
        "config": config_nodes(config.document.data, in_this_process=True),
        "cells": [cell.digest for cell in grid.cells],
        "sizes": list(sizes or [len(cell.task.queries) for cell in grid.cells]),
        "clusters": [len({query.group or query.id for query in cell.task.queries}) for cell in grid.cells],
        "metrics": describe_metrics(grid),
        "accuracies": [name for name, metric in grid.metrics.items() if getattr(metric, "accuracy", False)],
    }


def refresh_run_file(store: Store, grid: Grid, sizes: Sequence[int] | None = None, *, is_finished: bool = True) -> None:
    """Updates run.json of a run for which nothing is to compute: to its current config, and to the state 'finished'.

    The state may differ if the process was killed after the last sample.

    Args:
        store: The run directory.
        grid: The cells.
        sizes: The number of samples of each cell, if comparisons have ended early.
        is_finished: Whether no sample is missing, also beyond the limit of a limited run.
    """
    run, current = store.read_run() or {}, json_round_trip(describe_grid(store, grid, sizes))
    *before, last = run.get("sessions") or [{}]
    if is_finished and last.get("state", "finished") != "finished":
        current["sessions"] = [*before, {**last, "state": "finished"}]
    if any(run.get(key) != value for key, value in current.items()):
        write_cells(store, grid)
        store.write_run({**run, **current})


class CostLog:
    """Base class of session records. They count the work of models and the engine, and save it with `_write`."""

    def __init__(self, store: Store, invocation: Invocation) -> None:
        self.store, self.invocation = store, invocation
        self.counters: Counters = Counters()
        self.models: dict[str, dict[str, int]] = {}
        self.probes: dict[str, Mapping[str, Any]] = {}
        """Label of a model -> what the probe says of its server."""
        self.content: dict[str, Any] = {}
        self.saved = time.monotonic()
        self.stop_reason = ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        reason = self.stop_reason if kind is None else str(error)
        state = "interrupted" if kind is KeyboardInterrupt else "stopped" if kind or reason else "finished"
        try:
            self._write({"end": now(), "state": state, **({"reason": reason} if state == "stopped" else {})})
        except StoreError:  # the same full disk has already raised an error with a remedy
            if kind is None:
                raise

    def count(self, model: Model) -> None:
        """Reads the model's counters."""
        if counters := model.counters():
            self.models[model.digest] = dict(counters)

    def save(self, model: Model) -> None:
        """Writes the counters if the last write was more than `SAVE_EVERY` seconds ago."""
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.count(model)
            self._write({})

    def counted(self) -> dict[str, Any]:
        """The sum of the models' and the engine's counters, the engine's counters by arm, and the probes of servers."""
        counters: dict[str, int] = dict(self.counters.to_dict())
        for model_counters in self.models.values():
            for name, value in model_counters.items():
                counters[name] = counters.get(name, 0) + value
        probes = {"probes": self.probes} if self.probes else {}
        return {"counters": counters, "arms": self.counters.arms_to_dict(), **probes}

    def _write(self, more: Mapping[str, Any]) -> None:
        raise NotImplementedError


class RunSession(CostLog):
    """The session of a run in one process, in run.json. It is written at the start, during the run and at the end."""

    def __init__(self, store: Store, grid: Grid, invocation: Invocation) -> None:
        super().__init__(store, invocation)
        self.grid = grid

    def __enter__(self) -> "RunSession":
        previous = self.store.read_run() or {}
        self.content = {
            "name": self.store.folder.name,
            **describe_grid(self.store, self.grid),
            "templates": _describe_templates(self.grid),
            "sessions": [
                *previous.get("sessions", []),
                {"start": now(), "state": "running", "invocation": self.invocation.id},
            ],
        }
        self.store.write_run(self.content)
        return self

    def _write(self, more: Mapping[str, Any]) -> None:
        session = {**self.content["sessions"][-1], **self.counted(), **more}
        self.content["sessions"] = [*self.content["sessions"][:-1], session]
        self.store.write_run(self.content)
        self.saved = time.monotonic()


def _describe_templates(grid: Grid) -> dict[str, Any]:
    """Label of each model whose chat template is known -> what it does (`icl.models.hf.template_facts`)."""
    labels = {id(cell.model): str(cell.labels["model"]) for cell in grid.cells}
    facts = {labels[id(model)]: model.template_facts for model in grid.models}
    return {label: own.to_dict() for label, own in facts.items() if own is not None}


def sum_counters(counters: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of counters by name. Mappings of counters are summed by their own names."""
    total: dict[str, Any] = {}
    for mapping in counters:
        for name, value in mapping.items():
            is_nested = isinstance(value, Mapping)
            total[name] = sum_counters([total.get(name, {}), value]) if is_nested else total.get(name, 0) + value
    return total
