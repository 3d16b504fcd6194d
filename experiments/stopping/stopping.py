"""Comparisons that end early (`stop`), as decided, equal or open: which samples a run still needs.

A comparison is an arm and its reference in one task. The comparisons of a config are a family: they share one error
level, which its plan fixes before its first look. A look tests them on the first clusters of a fixed random order.

    1  `open_stopping`      makes the plan, or reads the one that the run was started with, and refuses a config that
                            changes it
    2  `Stopping.rounds`    gives the runner the queries of each cell up to the next look. The runner computes them, the
                            look is taken, and the next round leaves out what has ended.

    example: 200 queries, a look after each 10, arms vcd and icd against greedy
        round 1   queries 1 to 10 of all three arms are needed; the look decides nothing
        round 2   queries 1 to 20 of all three arms; the look decides vcd. The runner computes 11 to 20
        round 3   queries 1 to 30 of icd and greedy, and 1 to 20 of vcd, which gets no more samples; and so on

The last round asks again for all that the looks so far needed, such as samples that failed in an earlier session.
Comparisons that the config gets later are a further family with its own level. They use the samples that are there.
Without `stop` there is no family, and every sample is needed, in one round.

`looks` tests, and stores the looks. This module writes and repairs the plans, and decides when looks are taken: after
each round, and when a run is opened.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.grid.grid import Grid
from experiments.stopping.looks import Family, Samples, family_folder, family_folders, read_plan
from experiments.stopping.plan import StopPlan, make_stop_plan
from experiments.store import RunState, Store, json_round_trip, write_json
from icl import DamagedFileError, StoreError

REMEDY = (
    "The tests were planned for the old config, and the error level holds only for that plan. Undo the change, or use "
    "another name, or --fork."
)


class Stopping:
    """The families of a run, and the samples that they need.

    Args:
        families: The families, in order.
        samples: The samples of the run. None without a family.
    """

    def __init__(self, families: Sequence[Family] = (), samples: Samples | None = None) -> None:
        self.families, self.samples = families, samples

    def rounds(self, given_up: Callable[[], Collection[str]], note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """What to compute, round by round: cell -> the queries that are needed. A look is taken after each round.

        A cell without an entry needs all of its queries, so an empty dict is everything.

        Args:
            given_up: Returns the cells that are not computed any more.
            note: Receives a sentence when comparisons have ended.
        """
        for family in self.families:
            # A comparison with a given-up cell is left out of looks. If it still runs after the last planned look, it
            # takes one more, on all of its samples.
            for look in range(family.look + 1, max(family.plan.num_looks, family.look + 1) + 1):
                if not family.running:
                    break
                running = self.num_running
                yield self.needed(family, look)
                self.advance(given_up())
                if self.num_running < running:
                    note("; ".join(one.describe() for one in self.families))
        yield self.needed()  # what no look waited for: samples that failed in an earlier session
        self.advance(given_up())

    def needed(self, family: Family | None = None, look: int = 0) -> dict[str, set[str]]:
        """Cell -> the queries that the looks so far need, and the given look of one family. Other cells need all."""
        needed: dict[str, set[str]] = {}
        for one in self.families:
            for digest, queries in one.needed(look if one is family else one.look).items():
                needed[digest] = needed.get(digest, set()) | queries
        return needed

    def advance(self, given_up: Collection[str] = ()) -> None:
        """Takes every look whose samples are there.

        A look does not wait for comparisons that have a given-up cell.
        """
        for family in self.families:
            assert self.samples is not None
            family.advance(self.samples, given_up)

    @property
    def num_running(self) -> int:
        """The number of comparisons that have not ended."""
        return sum(len(family.running) for family in self.families)

    def restrict(self, state: RunState) -> None:
        """Once all comparisons have ended: removes the samples from the state that none of them needed."""
        if self.num_running:
            return
        for digest, queries in self.needed().items():
            if digest in state.missing:
                state.total -= len(state.missing[digest] - queries)
                state.missing[digest] &= queries

    def sizes(self, grid: Grid) -> list[int] | None:
        """The number of samples that each cell needed, once all comparisons have ended.

        None before, and without families.
        """
        if self.num_running or not self.families:
            return None
        needed = self.needed()
        return [len(needed[cell.digest]) if cell.digest in needed else len(cell.task.queries) for cell in grid.cells]

    def notes(self) -> Iterator[str]:
        """A sentence for each file of a plan or a look that was made again."""
        for path in (path for family in self.families for path in family.mended):
            yield f"{path} was damaged or missing and is made again from the config and the samples."


def open_stopping(store: Store, grid: Grid, may_write: bool = True) -> Stopping:
    """The families of a run under its config, after all looks whose samples are there.

    Args:
        store: The run directory.
        grid: The whole grid of the run.
        may_write: Whether opening may write the plan of a new family and further looks. `rounds` and `advance` write
            looks in any case.

    Raises:
        StoreError: The config differs from a plan of the run, the run was started without `stop`, or it was started
            with `stop` and the config lacks it now.
        DamagedFileError: A plan or a look is damaged, and is not made again from the config and the samples.
        ConfigError: The config has no comparison.
    """
    planned, folders = make_stop_plan(grid), family_folders(store.folder)
    if planned is None:
        if folders:
            raise StoreError(f"{store.folder} was started with `stop`, which the config lacks now. {REMEDY}")
        return Stopping()
    before = ((store.read_run() or {}).get("config") or {}).get("stop")
    if not folders and may_write and before is None and any(store.folder.glob("cells/*/*.jsonl")):
        raise StoreError(
            f"{grid.config.where('stop')}: {store.folder} was started without `stop`, so its comparisons were not "
            "planned before the first sample. Use another name, or --fork."
        )
    may_repair = before == grid.config.document.data.get("stop") and may_write
    plans, mended = _stored_plans(folders, planned, may_repair)
    for folder, stored in zip(folders, plans, strict=True):
        _refuse_changes(stored, planned, grid, folder)
    added = _new_comparisons(planned, plans)
    if added.comparisons and may_write:  # at the first start, or comparisons that the config got later
        folder = family_folder(store.folder, len(folders) + 1)
        write_json(folder / "plan.json", added.model_dump())
        folders, plans = [*folders, folder], [*plans, added]
    cells = {cell.digest for cell in grid.cells}
    families = [Family(folder, one, cells) for folder, one in zip(folders, plans, strict=True)]
    metric: Any = grid.metrics[planned.metric] if planned.is_run_level else None
    stopping = Stopping(families, Samples(store, planned.metric, metric))
    for family in families:
        family.mended += [path for path in mended if path.parent == family.folder]
        if not may_write:
            family.read()
    if may_write:
        stopping.advance()
    return stopping


def _stored_plans(folders: Sequence[Path], planned: StopPlan, may_repair: bool) -> tuple[list[StopPlan], list[Path]]:
    """The plans of the families, and the files of those that were damaged or lost and are made again from the config.

    Args:
        folders: The folders of the families.
        planned: All comparisons of the config.
        may_repair: Whether lost plans may be made again: files may be written, and the config has the `stop` of the
            run's last command.

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
        made = _new_comparisons(planned, list(plans.values()))
        # Of several lost plans, nothing says which comparisons were in which.
        if not may_repair or len(damage) > 1 or not made.comparisons or Family(folder, made).has_foreign_looks():
            raise DamagedFileError(f"{damaged} If the config has changed since, undo the change first.")
        write_json(folder / "plan.json", made.model_dump())
        plans[folder] = made
    return [plans[folder] for folder in folders], [folder / "plan.json" for folder in damage]


def _new_comparisons(planned: StopPlan, plans: Sequence[StopPlan]) -> StopPlan:
    """The part of a config's plan that no family of the run has."""
    digests = {one.digest for stored in plans for one in stored.comparisons}
    cells = {digest for stored in plans for own in stored.untested.values() for digest in own}
    cells |= {digest for stored in plans for one in stored.comparisons for digest in one.cells}
    untested = {task: tuple(cell for cell in own if cell not in cells) for task, own in planned.untested.items()}
    comparisons = tuple(one for one in planned.comparisons if one.digest not in digests)
    return planned.model_copy(update={"comparisons": comparisons, "untested": untested})


def _refuse_changes(stored: StopPlan, planned: StopPlan, grid: Grid, folder: Path) -> None:
    """Raises StoreError if the config changes the rule, the metric, the seeds or the queries of a stored plan."""
    before, now = (json_round_trip(one.model_dump()) for one in (stored, planned))
    where, keys = grid.config.where("stop"), ("looks", "seeds", "metric", "metric_node")
    had, has = ([*node["stop"].items(), *((key, node[key]) for key in keys)] for node in (before, now))
    for (key, value), (_, new) in zip(had, has, strict=True):
        if value != new:
            raise StoreError(f"{where}: {key} was {value} and is {new} now ({folder}). {REMEDY}")
    for task, rows in before["clusters"].items():
        if rows != (others := now["clusters"].get(task, rows)):
            counts = [sum(len(row) - 1 for row in own) for own in (rows, others)]  # a row: cluster, *queries
            raise StoreError(
                f"{where}: task {task} had {counts[0]} queries at the first look and has others now ({counts[1]}). The "
                "error level holds only for the planned queries. Run the new queries alone under another name."
            )
