"""Arms whose first samples all fail. The runner gives them up and computes the other arms.

An arm that fails alone, for example in its retriever, does not stop the grid. A model or a data set that fails in every
arm of a group does not cost `limit` samples of each of them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.grid.grid import Cell
from experiments.terminal.failure_kinds import failure_kind
from icl.types import Sample

MIN_FAILURES = 3
"""Failures of each arm after which a group of arms is given up: a single query may be at fault."""

ArmKey = tuple[tuple[str, str], ...]


@dataclass
class FailingArms:
    """A counter of the failures of each arm, from its first sample on.

    Args:
        cells: All cells of the run with missing samples.
        limit: Failures in a row after which an arm is given up.
    """

    cells: Sequence[Cell]
    limit: int
    failures: Counter[ArmKey] = field(default_factory=Counter)
    succeeded: set[ArmKey] = field(default_factory=set)
    given_up: dict[ArmKey, str] = field(default_factory=dict)
    group: frozenset[ArmKey] = frozenset()

    def __post_init__(self) -> None:
        self.arms = {cell.digest: _arm_key(cell) for cell in self.cells}

    def begin_group(self, cells: Iterable[Cell]) -> None:
        """Names the cells that are computed together from now on."""
        self.group = frozenset(self.arms[cell.digest] for cell in cells)

    def add(self, sample: Sample) -> None:
        arm = self.arms[sample.cell]
        if not sample.failed:
            self.succeeded.add(arm)
        elif arm not in self.succeeded:
            self.failures[arm] += 1
            if self.failures[arm] >= self.limit:
                self.given_up.setdefault(arm, sample.failed)
            elif self._group_fails():
                self.given_up |= {arm: self.given_up.get(arm, sample.failed) for arm in self.group}

    def is_given_up(self, cell: Cell) -> bool:
        return self.arms[cell.digest] in self.given_up

    @property
    def all_given_up(self) -> bool:
        """Whether no arm is left."""
        return self.given_up.keys() >= set(self.arms.values())

    def describe(self, missing: Mapping[str, set[str]]) -> tuple[str, int]:
        """A sentence on the arms that were given up, and the number of their samples that were not tried.

        Args:
            missing: Cell digest -> queries without a sample.
        """
        untried = {digest: len(missing[digest]) for digest, arm in self.arms.items() if arm in self.given_up}
        arms = {arm for digest, arm in self.arms.items() if untried.get(digest)}
        if not arms:
            return "", 0
        kinds: dict[str, list[ArmKey]] = {}
        for arm, reason in self.given_up.items():
            if arm in arms:
                kinds.setdefault(failure_kind(reason), []).append(arm)
        varying = [axis for axis, _ in next(iter(arms)) if len({dict(other)[axis] for other in self.arms.values()}) > 1]
        names = {
            kind: "; ".join(", ".join(f"{axis} {dict(arm)[axis]}" for axis in varying) for arm in same)
            for kind, same in kinds.items()
        }
        sentences = [
            f"{'1 arm was' if len(same) == 1 else f'{len(same)} arms were'} given up, because all samples of "
            f"{'it' if len(same) == 1 else 'them'} failed so far ({names[kind]}): {self.given_up[same[0]].rstrip('.')}."
            for kind, same in kinds.items()
        ]
        return " ".join(sentences), sum(untried.values())

    def _group_fails(self) -> bool:
        least = max(MIN_FAILURES, self.limit // len(self.group))
        return (
            not self.group & self.succeeded
            and sum(self.failures[arm] for arm in self.group) >= self.limit
            and all(self.failures[arm] >= least for arm in self.group)
        )


def _arm_key(cell: Cell) -> ArmKey:
    """The labels of a cell without its seed."""
    return tuple((axis, str(label)) for axis, label in cell.labels.items() if axis != "seed")
