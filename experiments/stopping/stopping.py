"""The families of comparisons of a run: opened with its config, checked against the plans that it has.

The first family is what the config compares when the run starts. Comparisons that the config gets later are a further
family, each with its own level. They use the samples that are there.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.grid.grid import Grid
from experiments.stopping.family import Family
from experiments.stopping.look_files import family_folder, family_folders, may_be_of_plan, read_plan, write_once
from experiments.stopping.plan import StopPlan, make_stop_plan
from experiments.store.run_state import RunState, json_round_trip
from experiments.store.store import Store, write_json
from icl.errors import DamagedFileError, StoreError

REMEDY = "The error level is spent on the plan of the first look. Undo the change, or use another name, or --fork."


class Stopping:
    """The families of a run.

    Args:
        store: The run directory.
        families: The families, in order.
    """

    def __init__(self, store: Store, families: Sequence[Family]) -> None:
        self.store, self.families = store, list(families)

    @property
    def num_running(self) -> int:
        """The number of comparisons that have not ended."""
        return sum(len(family.running) for family in self.families)

    @property
    def has_ended(self) -> bool:
        return not self.num_running

    def targets(self) -> Iterator[tuple[Family, int]]:
        """(family, look) of each block of work, in order: the samples up to this look of what still runs."""
        for family in self.families:
            for look in range(family.next_look, max(family.plan.num_looks, family.next_look) + 1):
                if not family.running:
                    break
                yield family, look

    def advance(self, given_up: Collection[str] = ()) -> int:
        """Takes every look whose samples are there. Returns their number."""
        return sum(family.advance(given_up) for family in self.families)

    def needed(self, family: Family | None = None, look: int = 0) -> dict[str, set[str]]:
        """The queries of each cell that are needed: so far, and for a look of one family."""
        needed: dict[str, set[str]] = {}
        for one in self.families:
            for digest, queries in one.needed(look if one is family else one.look).items():
                needed[digest] = needed.get(digest, set()) | queries
        return needed

    def describe(self) -> str:
        """How many comparisons have ended, of each family."""
        return "; ".join(family.describe() for family in self.families)

    def restrict(self, state: RunState) -> None:
        """Removes from a state what no comparison needs any more, once all have ended."""
        if not self.has_ended:
            return
        for digest, queries in self.needed().items():
            if digest in state.missing:
                unneeded = state.missing[digest] - queries
                state.missing[digest] -= unneeded
                state.total -= len(unneeded)

    def sizes(self, grid: Grid) -> list[int] | None:
        """The number of samples of each cell of the grid that the ended comparisons need; None while some run."""
        if not self.has_ended:
            return None
        needed = self.needed()
        return [len(needed[cell.digest]) if cell.digest in needed else len(cell.task.queries) for cell in grid.cells]

    def blocks(self) -> list[dict[str, set[str]]]:
        """The queries of each cell by block of work, of all looks to come. Later blocks have no earlier query."""
        before: dict[str, set[str]] = {}
        blocks = []
        for family, look in self.targets():
            needed = family.needed(look)
            blocks.append({digest: queries - before.get(digest, set()) for digest, queries in needed.items()})
            for digest, queries in needed.items():
                before[digest] = before.get(digest, set()) | queries
        return blocks


def open_stopping(store: Store, grid: Grid, may_write: bool = True) -> Stopping | None:
    """The families of a run under a config; None without `stop`.

    Args:
        store: The run directory.
        grid: The whole grid of the run.
        may_write: Whether to write the plan of a new family. Workers only read.

    Raises:
        StoreError: The config differs from a plan of the run.
        ConfigError: The config has no comparison.
    """
    plan, folders = make_stop_plan(grid), family_folders(store.folder)
    if plan is None:
        if folders:
            raise StoreError(f"{store.folder} was started with `stop`, which the config lacks now. {REMEDY}")
        return None
    before = ((store.read_run() or {}).get("config") or {}).get("stop")
    if not folders and may_write and before is None and any(store.folder.glob("cells/*/*.jsonl")):
        raise StoreError(
            f"{grid.config.where('stop')}: {store.folder} was started without `stop`, so its comparisons were not "
            "planned before the first sample. Use another name, or --fork."
        )
    plans, mended = _read_plans(folders, plan, before == grid.config.document.data.get("stop") and may_write)
    for folder, stored in zip(folders, plans, strict=True):
        _check(stored, plan, grid, folder)
    added = _unplanned(plan, plans)
    if added.comparisons and may_write:
        folder = family_folder(store.folder, len(folders) + 1)
        write_once(folder / "plan.json", added.to_dict())
        folders, plans = [*folders, folder], [*plans, added]
    metric: Any = grid.metrics[plan.metric] if plan.is_run_level else None
    cells = [cell.digest for cell in grid.cells]
    families = [Family(store, folder, one, cells, metric) for folder, one in zip(folders, plans, strict=True)]
    for family in families:
        family.mended += [path for path in mended if path.parent == family.folder]
    return Stopping(store, families)


def _read_plans(folders: Sequence[Path], plan: StopPlan, same_rule: bool) -> tuple[list[StopPlan], list[Path]]:
    """The plans of the families, and the files of those that were damaged or lost and are made again from the config.

    Args:
        folders: The folders of the families.
        plan: All comparisons of the config.
        same_rule: Whether `stop` is that of the run's last command. A plan of another rule is not made.

    Raises:
        DamagedFileError: A plan cannot be made from the config.
    """
    plans: dict[Path, StopPlan] = {}
    damage: dict[Path, DamagedFileError] = {}
    for folder in folders:
        try:
            plans[folder] = read_plan(folder)
        except DamagedFileError as error:
            damage[folder] = error
    for folder, damaged in damage.items():
        made = _unplanned(plan, list(plans.values()))
        if not same_rule or len(damage) > 1 or not made.comparisons or not may_be_of_plan(folder, made):
            raise DamagedFileError(f"{damaged} If the config has changed since, undo the change first.")
        write_json(folder / "plan.json", made.to_dict())
        plans[folder] = made
    return [plans[folder] for folder in folders], [folder / "plan.json" for folder in damage]


def _unplanned(plan: StopPlan, plans: Sequence[StopPlan]) -> StopPlan:
    """The part of a config's plan that no family has."""
    planned = {one.key for stored in plans for one in stored.comparisons}
    cells = {digest for stored in plans for own in stored.untested.values() for digest in own}
    cells |= {digest for stored in plans for one in stored.comparisons for digest in one.cells}
    untested = {task: tuple(c for c in own if c not in cells) for task, own in plan.untested.items()}
    return replace(
        plan,
        comparisons=tuple(one for one in plan.comparisons if one.key not in planned),
        untested={task: own for task, own in untested.items() if own},
    )


def _check(stored: StopPlan, plan: StopPlan, grid: Grid, folder: Path) -> None:
    """Raises StoreError if the config changes what the stored plan fixed."""
    where = grid.config.where("stop")
    before, now = (json_round_trip(one.to_dict()) for one in (stored, plan))
    for key in before["stop"]:
        if before["stop"][key] != now["stop"][key]:
            raise StoreError(
                f"{where}: {key} was {before['stop'][key]} and is {now['stop'][key]} now ({folder}). {REMEDY}"
            )
    if before["looks"] != now["looks"]:
        raise StoreError(f"{where}: the plan has {before['looks']} looks, and now {now['looks']} ({folder}). {REMEDY}")
    for key, words in (("metric", "another metric decides"), ("metric_node", "the metric has changed")):
        if before[key] != now[key]:
            raise StoreError(f"{where}: {words} than in {folder} ({stored.metric}, now {plan.metric}). {REMEDY}")
    if before["seeds"] != now["seeds"]:
        raise StoreError(f"{where}: the plan has {stored.seeds} seeds, and now {plan.seeds} ({folder}). {REMEDY}")
    for task, clusters in before["clusters"].items():
        if task in now["clusters"] and now["clusters"][task] != clusters:
            had, has = (sum(len(row) - 1 for row in rows) for rows in (clusters, now["clusters"][task]))
            raise StoreError(
                f"{where}: task {task} had {had} queries at the first look and has others now ({has}). The error level "
                "is spent on the planned queries. Run the new queries alone under another name."
            )
