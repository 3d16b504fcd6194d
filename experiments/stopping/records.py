"""The looks of a run as they are read back, without its config: plans, standings, and how far each cell counts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.stats.stopping_rule import Standing
from experiments.stopping.look_files import LookEntry, family_folders, read_look, read_plan
from experiments.stopping.plan import StopPlan


@dataclass(frozen=True)
class FamilyRecord:
    """A family of comparisons and its looks so far.

    Attributes:
        plan: The plan.
        standings: One per comparison.
        clusters: The number of clusters that each comparison has used.
        look: The number of looks.
    """

    plan: StopPlan
    standings: tuple[Standing, ...]
    clusters: tuple[int, ...]
    look: int

    @property
    def has_ended(self) -> bool:
        return all(one.end != "running" for one in self.standings)

    def describe(self) -> str:
        """'look 6 of 20: 3 of 8 comparisons have ended (2 decided, 1 open)'."""
        counts = {end: sum(one.end == end for one in self.standings) for end in ("decided", "equal", "open")}
        ended = ", ".join(f"{count} {end}" for end, count in counts.items() if count)
        of = f"{sum(counts.values())} of {self.plan.family} comparisons have ended{f' ({ended})' if ended else ''}"
        return f"look {self.look} of {self.plan.num_looks}: {of}" if self.look else f"no look yet: {of}"

    def cell_clusters(self) -> dict[str, int]:
        """Cell -> the number of clusters on which its comparisons stand. Comparisons that fell behind do not count."""
        cells: dict[str, int] = {}
        for one, standing, n in zip(self.plan.comparisons, self.standings, self.clusters, strict=True):
            if standing.end != "running" or n == self.plan.num_clusters(one.task, self.look):
                for digest in one.cells:
                    cells[digest] = max(n, cells.get(digest, 0))
        return cells


def read_families(run: Path) -> list[FamilyRecord]:
    """The families of a run directory; empty without `stop`. Raises StoreError for a damaged file."""
    return [_read_family(folder) for folder in family_folders(run)]


def read_standing(entry: LookEntry, before: Standing, look: int) -> Standing:
    """The standing of a comparison after a look, from its entry in the look's file."""
    if entry.result is None:
        return replace(before, end=entry.end, chance=entry.chance)
    return Standing(entry.result, entry.end, look, entry.chance)


def common_queries(families: list[FamilyRecord]) -> Mapping[str, set[str]]:
    """Task -> the queries on which all of its compared arms stand: the means of a table are comparable on these."""
    queries: dict[str, set[str]] = {}
    for task in dict.fromkeys(task for family in families for task in family.plan.clusters):
        cells: dict[str, int] = {}
        for family in families:
            digests = {d for one in family.plan.comparisons if one.task == task for d in one.cells}
            for digest, n in family.cell_clusters().items():
                if digest in digests:
                    cells[digest] = max(n, cells.get(digest, 0))
        clusters = next(family.plan.clusters[task] for family in families if task in family.plan.clusters)
        common = list(clusters)[: min(cells.values(), default=len(clusters))]
        queries[task] = {query for name in common for query in clusters[name]}
    return queries


def _read_family(folder: Path) -> FamilyRecord:
    plan = read_plan(folder)
    standings, clusters, look = [Standing() for _ in plan.comparisons], [0] * plan.family, 0
    while (content := read_look(folder, look + 1, plan)) is not None:
        look += 1
        for key, entry in content.comparisons.items():
            i = int(key)
            standings[i] = read_standing(entry, standings[i], look)
            clusters[i] = entry.clusters or clusters[i]
    return FamilyRecord(plan, tuple(standings), tuple(clusters), look)
