"""Overrides that reduce a grid to one setting, for commands that take only one.

The chosen setting has the most shots. Of other axes it has the first value in the file.
"""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.config.config import Config
from experiments.config.keys import AXES
from experiments.config.yaml_document import to_flow_yaml
from experiments.grid.grid import Cell
from experiments.grid.matching import matches
from icl import ConfigError


class SeveralSettingsError(ConfigError):
    """The error for a grid with several settings. overrides: command-line arguments that leave one of them."""

    def __init__(self, reason: str, overrides: Sequence[str]) -> None:
        super().__init__(f"{reason} Choose one of each: {shlex.join(overrides)}")
        self.reason, self.overrides = reason, list(overrides)


def check_single_setting(config: Config, cells: Sequence[Cell], what: str) -> None:
    """Raises SeveralSettingsError if the cells differ on an axis. what: what is fitted, such as 'vectors'."""
    if several := list(_differing_axes(cells)):
        raise SeveralSettingsError(
            f"{config.document.name}: {what} are fitted in one setting, and this file has several values of "
            f"{', '.join(several)}.",
            single_setting_overrides(config, cells),
        )


def single_setting_overrides(config: Config, cells: Sequence[Cell]) -> list[str]:
    """Overrides such as `grid.shots=[8]`, one for each axis of the file with several values."""
    chosen = max(cells, key=lambda cell: cell.shots)
    overrides = [
        _override("grid", axis, next((value for value in values if _is(chosen, axis, value)), values[0]))
        for axis, values in config.grid.items()
        if len(values) > 1
    ]
    rows = range(len(next(iter(config.zip.values()), [])))
    row = next((i for i in rows if all(_is(chosen, axis, values[i]) for axis, values in config.zip.items())), 0)
    zipped = config.zip.items() if len(rows) > 1 else ()
    return [*overrides, *(_override("zip", axis, values[row]) for axis, values in zipped)]


def _is(cell: Cell, axis: str, value: Any) -> bool:
    """Whether the cell has this value on an axis, which may be a parameter: `decoding.alpha`."""
    head, *path = axis.split(".")
    for key in reversed(path):
        value = {key: value}
    cannot_matter = cell.config.get(head) is None  # such as the retriever at 0 shots
    return cannot_matter or matches(cell.axis_value(head), head, value)


def _override(key: str, axis: str, value: Any) -> str:
    return f"{key}.{axis}={to_flow_yaml([value])}"


def _differing_axes(cells: Sequence[Cell]) -> Iterator[str]:
    """'shots (0, 4)' for each axis on which the cells differ.

    An axis that cannot matter to a cell, such as the retriever at 0 shots, does not count as a difference.
    """
    for axis in AXES:
        labels = {repr(cell.config[axis]): str(cell.labels[axis]) for cell in cells if cell.config[axis] is not None}
        if len(labels) > 1:
            yield f"{axis} ({', '.join(labels.values())})"
