"""Comparisons of a run that end when they are decided: what the runner, the plan of workers and reports ask.

The first family is what the config compares when the run starts. Comparisons that the config gets later are a further
family, each with its own level. They use the samples that are there. Without `stop` there is no family, and every
sample is needed.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.grid.grid import Grid
from experiments.stopping.looks import Family, Samples, family_folder, family_folders, read_plan
from experiments.stopping.plan import StopPlan, make_stop_plan
from experiments.store.run_state import RunState, json_round_trip
from experiments.store.store import Store, write_json
from icl import StoreError
from icl.errors import DamagedFileError

REMEDY = "The error level is spent on the plan of the first look. Undo the change, or use another name, or --fork."


class Stopping:
    """The families of a run.

    Args:
        families: The families, in order.
        samples: The samples of the run.
    """

    def __init__(self, families: Sequence[Family] = (), samples: Samples | None = None) -> None:
        self.families, self.samples = families, samples

    @property
    def num_running(self) -> int:
        """The number of comparisons that have not ended."""
        return sum(len(family.running) for family in self.families)

    def rounds(self, given_up: Callable[[], Collection[str]], note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """The queries of each cell that are needed next, look by look. Looks are taken in between.

        Args:
            given_up: The cells that are not computed any more.
            note: Receives a sentence when comparisons have ended.
        """
        for family, look in self._targets():
            running = self.num_running
            yield self.needed(family, look)
            self.advance(given_up())
            if self.num_running < running:
                note("; ".join(one.describe() for one in self.families))
        yield self.needed()  # what no look waited for: samples that failed in an earlier session
        self.advance(given_up())

    def needed(self, family: Family | None = None, look: int = 0) -> dict[str, set[str]]:
        """The queries of each cell that are needed: so far, and for a look of one family. Other cells need all."""
        needed: dict[str, set[str]] = {}
        for one in self.families:
            for digest, queries in one.needed(look if one is family else one.look).items():
                needed[digest] = needed.get(digest, set()) | queries
        return needed

    def advance(self, given_up: Collection[str] = ()) -> None:
        """Takes every look whose samples are there. Comparisons with a cell that was given up do not hold it up."""
        for family in self.families:
            assert self.samples is not None
            family.advance(self.samples, given_up)

    def restrict(self, state: RunState) -> None:
        """Removes from a state what no comparison needs any more, once all have ended."""
        if self.num_running:
            return
        for digest, queries in self.needed().items():
            if digest in state.missing:
                state.total -= len(state.missing[digest] - queries)
                state.missing[digest] &= queries

    def sizes(self, grid: Grid) -> list[int] | None:
        """The number of samples of each cell of the grid that the ended comparisons need; None while some run."""
        if self.num_running or not self.families:
            return None
        needed = self.needed()
        return [len(needed[cell.digest]) if cell.digest in needed else len(cell.task.queries) for cell in grid.cells]

    def notes(self) -> Iterator[str]:
        """Says which files of the looks were made again."""
        for path in (path for family in self.families for path in family.mended):
            yield f"{path} was damaged or missing and is made again from the config and the samples."

    def _targets(self) -> Iterator[tuple[Family, int]]:
        """(family, look) of each block of work, in order: the samples up to this look of what still runs.

        A comparison that lost a cell to failures may need one look after the last."""
        for family in self.families:
            for look in range(family.look + 1, max(family.plan.num_looks, family.look + 1) + 1):
                if not family.running:
                    break
                yield family, look


def open_stopping(store: Store, grid: Grid, may_write: bool = True) -> Stopping:
    """The families of a run under a config, after the looks whose samples are there.

    Args:
        store: The run directory.
        grid: The whole grid of the run.
        may_write: Whether opening may write the plan of a new family and further looks. `rounds` and `advance` write
            looks in any case.

    Raises:
        StoreError: The config differs from a plan of the run.
        ConfigError: The config has no comparison.
    """
    plan, folders = make_stop_plan(grid), family_folders(store.folder)
    if plan is None:
        if folders:
            raise StoreError(f"{store.folder} was started with `stop`, which the config lacks now. {REMEDY}")
        return Stopping()
    before = ((store.read_run() or {}).get("config") or {}).get("stop")
    if not folders and may_write and before is None and any(store.folder.glob("cells/*/*.jsonl")):
        raise StoreError(
            f"{grid.config.where('stop')}: {store.folder} was started without `stop`, so its comparisons were not "
            "planned before the first sample. Use another name, or --fork."
        )
    same_rule = before == grid.config.document.data.get("stop") and may_write
    plans, mended = _read_plans(folders, plan, same_rule)
    for folder, stored in zip(folders, plans, strict=True):
        _check(stored, plan, grid, folder)
    added = _unplanned(plan, plans)
    if added.comparisons and may_write:
        folder = family_folder(store.folder, len(folders) + 1)
        write_json(folder / "plan.json", added.model_dump())
        folders, plans = [*folders, folder], [*plans, added]
    cells = {cell.digest for cell in grid.cells}
    families = [Family(folder, one, cells) for folder, one in zip(folders, plans, strict=True)]
    metric: Any = grid.metrics[plan.metric] if plan.is_run_level else None
    stopping = Stopping(families, Samples(store, plan.metric, metric))
    for family in families:
        family.mended += [path for path in mended if path.parent == family.folder]
        if not may_write:
            family.read()
    if may_write:
        stopping.advance()
    return stopping


def _read_plans(folders: Sequence[Path], plan: StopPlan, same_rule: bool) -> tuple[list[StopPlan], list[Path]]:
    """The plans of the families, and the files of those that were damaged or lost and are made again from the config.

    Args:
        folders: The folders of the families.
        plan: All comparisons of the config.
        same_rule: Whether `stop` is the same as in the run's last command. A plan of another rule is not made.

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
        if not same_rule or len(damage) > 1 or not made.comparisons or Family(folder, made).has_foreign_looks():
            raise DamagedFileError(f"{damaged} If the config has changed since, undo the change first.")
        write_json(folder / "plan.json", made.model_dump())
        plans[folder] = made
    return [plans[folder] for folder in folders], [folder / "plan.json" for folder in damage]


def _unplanned(plan: StopPlan, plans: Sequence[StopPlan]) -> StopPlan:
    """The part of a config's plan that no family has."""
    planned = {one.digest for stored in plans for one in stored.comparisons}
    cells = {digest for stored in plans for own in stored.untested.values() for digest in own}
    cells |= {digest for stored in plans for one in stored.comparisons for digest in one.cells}
    untested = {task: tuple(cell for cell in own if cell not in cells) for task, own in plan.untested.items()}
    comparisons = tuple(one for one in plan.comparisons if one.digest not in planned)
    return plan.model_copy(update={"comparisons": comparisons, "untested": untested})


def _check(stored: StopPlan, plan: StopPlan, grid: Grid, folder: Path) -> None:
    """Raises StoreError if the config changes what the stored plan fixed."""
    before, now = (json_round_trip(one.model_dump()) for one in (stored, plan))
    where, keys = grid.config.where("stop"), ("looks", "seeds", "metric", "metric_node")
    had, has = ([*node["stop"].items(), *((key, node[key]) for key in keys)] for node in (before, now))
    for (key, value), (_, new) in zip(had, has, strict=True):
        if value != new:
            raise StoreError(f"{where}: {key} was {value} and is {new} now ({folder}). {REMEDY}")
    for task, rows in before["clusters"].items():
        if rows != (others := now["clusters"].get(task, rows)):
            counts = [sum(len(row) - 1 for row in own) for own in (rows, others)]
            raise StoreError(
                f"{where}: task {task} had {counts[0]} queries at the first look and has others now ({counts[1]}). The "
                "error level is spent on the planned queries. Run the new queries alone under another name."
            )
