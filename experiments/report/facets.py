"""Facets of a figure: a table with many rows as several panels of a few lines each, and where their labels stand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.report.tables import ScoreRow, TaskTable

MAX_LINES = 6
"""The largest number of lines in a panel that has another axis to be divided by."""


@dataclass(frozen=True)
class Facet:
    """One panel: its caption ('knn'; '' for the only one) and its rows."""

    caption: str
    table: TaskTable

    def name(self, row: ScoreRow) -> str:
        """The label of a row without the values that all rows of the panel have."""
        labels = [other.labels for other in self.table.rows if not other.baseline]
        varying = [i for i in range(len(self.table.axes)) if len({one[i] for one in labels}) > 1]
        if row.baseline:
            first = next(iter(labels), ())  # no row is left if all samples failed
            own = [label for i, label in enumerate(row.labels) if i in varying or label not in first]
            return ", ".join(reversed([*filter(None, own)])) if self.caption else row.name
        return ", ".join(row.labels[i] for i in varying) or row.name


def divide(table: TaskTable) -> list[Facet]:
    """The panels of a table. It is divided by as few axes as possible, by the decoding last."""
    table = replace(table, rows=tuple(row for row in table.rows if row.cells))
    arms = [row for row in table.rows if not row.baseline]
    places = [i for i in range(len(table.axes)) if len({row.labels[i] for row in arms}) > 1]
    if len(arms) <= MAX_LINES or len(places) < 2:
        return [Facet("", table)]

    def cost(place: int) -> tuple[bool, bool, int]:
        sizes = [sum(row.labels[place] == value for row in arms) for value in {row.labels[place] for row in arms}]
        return max(sizes) > MAX_LINES, table.axes[place] == "decoding", len(sizes)

    place = min(places, key=cost)
    facets = []
    for value in dict.fromkeys(row.labels[place] for row in arms):
        rows = tuple(
            row for row in table.rows if row.labels[place] == value or (row.baseline and not row.labels[place])
        )
        for inner in divide(replace(table, rows=rows)):
            facets.append(Facet(", ".join(filter(None, (value, inner.caption))), inner.table))
    return facets


def spread_out(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions of labels beside their lines: in the same order, at least `gap` apart, near the given ones.

    Args:
        positions: Where the lines end.
        gap: The height of a label.
        low: The least position. If the labels need more room than there is, the first ones are below it.
        high: The largest position.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[list[int]] = []

    def center(group: list[int]) -> float:
        return sum(positions[i] for i in group) / len(group)

    for i in order:
        groups.append([i])
        while len(groups) > 1 and (
            center(groups[-1]) - center(groups[-2]) < gap * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    spread = list(positions)
    for group in groups:
        for place, i in enumerate(group):
            spread[i] = center(group) + (place - (len(group) - 1) / 2) * gap
    nearest = low
    for i in order:
        spread[i] = max(spread[i], nearest)
        nearest = spread[i] + gap
    nearest = high
    for i in reversed(order):
        spread[i] = min(spread[i], nearest)
        nearest = spread[i] - gap
    return spread
