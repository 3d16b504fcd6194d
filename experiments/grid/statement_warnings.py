"""Warnings about claims and published numbers that a grid cannot answer: it lacks the value, the metric or the axis.

They are no errors, because an override such as `grid.shots=[0]` may leave out the arms of a claim.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from experiments.config.keys import AXES, primary_metric
from experiments.config.statements import BASELINE_KEY, PublishedSpec
from experiments.grid.grid import Grid
from experiments.grid.label_matching import match_label
from icl.errors import ConfigError, did_you_mean

LARGEST_SHARE = 1.5
"""A published accuracy, or a difference of two, above it is read as a percentage."""
SAME_WORD = 0.8
"""The similarity from which the name of a column is a misspelled axis."""


def statement_warnings(grid: Grid) -> Iterator[str]:
    """A sentence with its place on each part of a claim or number that the grid lacks."""
    for i, claim in enumerate(grid.config.claims):
        for key in ("arm", "against"):
            yield from _settings(grid, ("claims", i, key), getattr(claim, key))
        for key in ("metric", "tasks_with"):
            yield from _metric(grid, ("claims", i, key), getattr(claim, key))
    for i, number in enumerate(grid.config.published):
        for key in ("at", "minus"):
            yield from _settings(grid, ("published", i, key), getattr(number, key) or {})
        yield from _metric(grid, ("published", i, "metric"), number.metric)
        yield from _percentage(grid, ("published", i, "value"), number)


def _settings(grid: Grid, place: tuple[str | int, ...], setting: Mapping[str, Any]) -> Iterator[str]:
    for axis, value in setting.items():
        where = grid.config.where(*place, axis)
        if axis in AXES:
            labels = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
            try:
                match_label(value, labels, axis, where)
            except ConfigError as error:
                yield str(error)
        elif axis != BASELINE_KEY and (near := get_close_matches(axis, AXES, 1, SAME_WORD)):
            yield f"{where}: no axis '{axis}', so it is read as a column of the data. Did you mean '{near[0]}'?"


def _metric(grid: Grid, place: tuple[str | int, ...], name: str | None) -> Iterator[str]:
    if name is not None and name not in grid.metrics:
        hint, names = did_you_mean(name, grid.metrics), ", ".join(grid.metrics)
        yield f"{grid.config.where(*place)}: no metric '{name}' in metrics.{hint} There are {names}."


def _percentage(grid: Grid, place: tuple[str | int, ...], number: PublishedSpec) -> Iterator[str]:
    compare = grid.config.compare
    name = number.metric or (compare.metric if compare else primary_metric({}, list(grid.metrics)))
    if abs(number.value) > LARGEST_SHARE and getattr(grid.metrics.get(str(name)), "accuracy", False):
        yield (
            f"{grid.config.where(*place)}: '{name}' is a share from 0 to 1, and {number.value:g} is none. "
            f"Write a percentage as {number.value / 100:g}."
        )
