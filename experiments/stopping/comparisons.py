"""The comparisons that a grid plans: every arm with a reference, once, as `experiments.stats.compare` pairs them.

Two arms whose answers cannot differ are not tested, and equivalent pairs of arms are one comparison. Both are known
before there are answers, so neither counts in the family.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from experiments.config.keys import DEFAULT_REFERENCES, DEMONSTRATION_AXES
from experiments.grid.grid import Cell, Grid
from experiments.grid.label_matching import match_label
from experiments.stats.arms import NO_VALUE, Arm, describe_arm, reference_of
from experiments.store.equivalent_cells import equivalence_digest
from experiments.store.json_shapes import Digest
from icl.errors import ConfigError


@dataclass(frozen=True)
class PlannedComparison:
    """An arm and its reference in one task.

    Attributes:
        task: The label of the task.
        arm: The digests of the arm's cells, by seed.
        reference: The digests of the reference's cells, by seed.
        name: The arm in words.
        against: The reference in words.
        cells: The digests of all cells that are computed while it runs: its own, and those of equivalent pairs.
        axes: The labels of the arm by axis.
    """

    task: str
    arm: tuple[Digest, ...]
    reference: tuple[Digest, ...]
    name: str
    against: str
    cells: tuple[Digest, ...] = ()
    axes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.arm, self.reference

    @property
    def digest(self) -> str:
        """Digest of the key, by which a look names the comparison."""
        return hashlib.sha256(repr(self.key).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def planned_comparisons(grid: Grid) -> list[PlannedComparison]:
    """The distinct tested comparisons of a grid, in the order of its arms.

    Raises:
        ConfigError: No arm has a reference, or two arms have different seeds.
    """
    arms: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
    for cell in grid.cells:
        arms.setdefault(tuple((a, v) for a, v in cell.labels.items() if a != "seed"), []).append(cell)
    settings: list[Arm] = [dict(key) for key in arms]
    to = _reference_setting(grid, settings)
    varying = [axis for axis, values in _values(settings).items() if axis != "task" and len(values) > 1]
    planned: dict[Any, PlannedComparison] = {}
    for arm, cells in zip(settings, arms.values(), strict=True):
        reference = reference_of(arm, to, settings)
        if reference is None:
            continue
        theirs = arms[tuple(reference.items())]
        name, against = (describe_arm(one, [a for a in varying if a in one]) for one in (arm, reference))
        if {cell.seed for cell in cells} != {cell.seed for cell in theirs}:
            raise ConfigError(f"{grid.config.where('stop')}: {name} and {against} have different seeds. Pair them.")
        sides = tuple(frozenset((cell.seed, _equivalence(cell)) for cell in side) for side in (theirs, cells))
        if sides[0] == sides[1]:
            continue
        own, other = (tuple(c.digest for c in sorted(side, key=lambda c: c.seed)) for side in (cells, theirs))
        one = PlannedComparison(str(arm["task"]), own, other, name, against, (*own, *other), arm)
        earlier = planned.get(sides)
        same = (*earlier.cells, *one.cells) if earlier else one.cells
        planned[sides] = replace(earlier or one, cells=tuple(dict.fromkeys(same)))
    if not planned:
        raise ConfigError(
            f"{grid.config.where('stop')}: there is no comparison that could be decided. Set compare, such as "
            "{to: {decoding: greedy}}, and an axis with other values."
        )
    return list(planned.values())


def _reference_setting(grid: Grid, settings: Sequence[Arm]) -> Arm:
    """The setting of the references, in labels: that of `compare`, else the usual one of reports."""
    values = _values(settings)
    if grid.config.compare is None:
        return _usual_reference(values)
    to: Arm = {}
    for axis, value in grid.config.compare.to.items():
        by_text = {str(label): label for label in values[axis]}
        where = grid.config.where("compare", "to", axis)
        only = len(by_text) == 1
        to[axis] = values[axis][0] if only else by_text[match_label(value, list(by_text), axis, where)]
    return to


def _values(settings: Sequence[Arm]) -> dict[str, list[Any]]:
    """The values of each axis. 'none' of an axis that has no effect at 0 shots is not one of them."""
    values: dict[str, list[Any]] = {}
    for axis in settings[0]:
        free = axis in DEMONSTRATION_AXES
        own = dict.fromkeys(arm[axis] for arm in settings if not (free and arm["shots"] == 0))
        values[axis] = list(own) or [NO_VALUE]
    return values


def _usual_reference(values: Mapping[str, Sequence[Any]]) -> Arm:
    for axis in ("decoding", "retriever"):
        if len(values[axis]) > 1:
            if DEFAULT_REFERENCES[axis] in values[axis]:
                return {axis: DEFAULT_REFERENCES[axis]}
            if axis == "decoding":
                return {axis: values[axis][0]}
    return {"shots": 0}


def _equivalence(cell: Cell) -> str:
    """What decides the cell's answers; its own digest if that is not known."""
    description = {**cell.config, "model_digest": cell.model.digest}
    return equivalence_digest(description) or cell.digest
