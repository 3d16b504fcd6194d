"""A family of comparisons in a run directory: it takes the looks whose samples are there, and knows what is needed.

    look k   after the first n_k clusters of each task, in the order of the plan. A cluster is complete if all its
             queries under all seeds were answered or failed, in both arms. Failed pairs are dropped.
    needed   a cell is computed while any comparison that reads it runs; the reference until its last one

Sums of clusters come from the look files once they are written, so that a sample that is computed again changes no
look. A comparison whose arm was given up (`experiments.running.failing_arms`) is left out of the looks: a skipped look
spends no error. It takes a last look when its samples are there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from experiments.stats.run_statistics import (
    RunStatistic,
    SampleRef,
    align_run_statistics,
    build_strata,
)
from experiments.stats.stopping_rule import LookResult, PairedLooks, RunLevelLooks, Standing, end_comparisons
from experiments.stopping.comparisons import PlannedComparison
from experiments.stopping.look_files import Look, LookEntry, look_path, read_look, write_once
from experiments.stopping.plan import REMEDY, StopPlan
from experiments.stopping.records import FamilyRecord, read_standing
from experiments.stopping.scores import ScoreReader
from experiments.store.store import Store
from icl.errors import DamagedFileError
from icl.metrics.base import RunLevelMetric

ROUNDING = 12
"""Digits of the numbers in look files."""


@dataclass
class _Progress:
    """A comparison's sums of clusters so far. clusters: their number. dropped: pairs of a run-level metric."""

    sums: list[float]
    pairs: list[float]
    clusters: int = 0
    dropped: tuple[tuple[str, int], ...] = ()


class Family:
    """A family of comparisons and its looks.

    Args:
        store: The run directory.
        folder: The folder of the family's files.
        plan: Its plan.
        cells: The digests of the grid. A comparison whose arms have left it waits, and stays in the family.
        metric: The run-level metric, if the plan's metric is one.

    Attributes:
        mended: Files that were damaged or lost and are made again.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        plan: StopPlan,
        cells: Collection[str],
        metric: RunLevelMetric | None = None,
    ) -> None:
        self.store, self.folder, self.plan, self.metric = store, folder, plan, metric
        self.cells = frozenset(cells)
        self.reader = ScoreReader(store, plan.metric, keep_answers=plan.is_run_level)
        self.standings = [Standing() for _ in plan.comparisons]
        self.progress = [_Progress([], []) for _ in plan.comparisons]
        self.look = 0
        self.mended: list[Path] = []
        kind = RunLevelLooks if plan.is_run_level else PairedLooks
        self.tests: list[Any] = [kind(plan.design(one.task), plan.spec, plan.family) for one in plan.comparisons]

    @property
    def next_look(self) -> int:
        return self.look + 1

    @property
    def running(self) -> list[int]:
        """The comparisons that have not ended and whose arms are in the grid."""
        return [
            i
            for i, one in enumerate(self.standings)
            if one.end == "running" and self.cells.issuperset((*self._own(i).arm, *self._own(i).reference))
        ]

    def describe(self) -> str:
        """'look 6 of 20: 3 of 8 comparisons have ended (2 decided, 1 open)'."""
        return self.record().describe()

    def record(self) -> FamilyRecord:
        """The looks so far, as they are read back from their files."""
        return FamilyRecord(self.plan, tuple(self.standings), tuple(one.clusters for one in self.progress), self.look)

    def needed(self, look: int) -> dict[str, set[str]]:
        """The queries of each cell of the family that are needed up to a look."""
        clusters: dict[str, dict[str, int]] = {}
        running = set(self.running)
        running_tasks = {self.plan.comparisons[i].task for i in running}
        both = list(zip(self.plan.comparisons, self.progress, strict=True))
        for i, (one, progress) in enumerate(both):
            n = self.plan.num_clusters(one.task, look) if i in running else progress.clusters
            for digest in one.cells:
                of_task = clusters.setdefault(one.task, {})
                of_task[digest] = max(of_task.get(digest, 0), n)
        for task, untested in self.plan.untested.items():
            ended = [progress.clusters for one, progress in both if one.task == task]
            so_far = max(ended, default=len(self.plan.clusters[task]))
            n = self.plan.num_clusters(task, look) if task in running_tasks else so_far
            clusters.setdefault(task, {}).update(dict.fromkeys(untested, n))
        needed: dict[str, set[str]] = {}
        for task, cells in clusters.items():
            names = list(self.plan.clusters[task])
            for digest, n in cells.items():
                needed[digest] = {query for name in names[:n] for query in self.plan.clusters[task][name]}
        return needed

    def advance(self, given_up: Collection[str] = ()) -> int:
        """Takes every look whose samples are there. Returns the number of looks taken or read.

        Args:
            given_up: Cells that are not computed. Their comparisons do not hold up a look.
        """
        before = self.look
        while self.running and self._take(given_up):
            pass
        return self.look - before

    def _take(self, given_up: Collection[str]) -> bool:
        """Takes or reads the next look. Returns whether there was one."""
        path, damage = look_path(self.folder, self.next_look), None
        try:
            content = self._read()
        except DamagedFileError as error:
            content, damage = None, error
        if content is None:
            ready = [i for i in self.running if not self._is_given_up(i, given_up)]
            if damage and not ready:  # a reader, which takes no look
                raise damage
            self.reader.refresh([d for i in ready for d in (*self._own(i).arm, *self._own(i).reference)])
            if not ready or not all(self._is_complete(i) for i in ready):
                return False
            if damage:
                path.unlink(missing_ok=True)
                self.mended.append(path)
            write_once(path, self._evaluate(ready))
            content = self._read()
        if content is not None:
            self._apply(content)
        return True

    def _read(self) -> Look | None:
        """The next look. Raises DamagedFileError also if it goes on from another look than the last one."""
        content = read_look(self.folder, self.next_look, self.plan)
        for key, entry in content.comparisons.items() if content else ():
            new = entry.clusters - self.progress[int(key)].clusters
            if entry.sums is not None and len(entry.sums) != new:
                path = look_path(self.folder, self.next_look)
                raise DamagedFileError(f"{path} does not continue the previous look. {REMEDY}")
        return content

    def _own(self, i: int) -> PlannedComparison:
        return self.plan.comparisons[i]

    def _is_given_up(self, i: int, given_up: Collection[str]) -> bool:
        return any(digest in given_up for digest in (*self._own(i).arm, *self._own(i).reference))

    def _is_complete(self, i: int) -> bool:
        queries = self.plan.queries(self._own(i).task, self.next_look)
        return all(self.reader.has_all(digest, queries) for digest in (*self._own(i).arm, *self._own(i).reference))

    def _evaluate(self, ready: Sequence[int]) -> dict[str, Any]:
        """The content of the next look's file."""
        parts = {i: self._part(i) for i in ready}
        results = {i: self._result(i, part) for i, part in parts.items()}
        after = end_comparisons(self.standings, results, self.next_look, self.plan.spec, self.plan.family)
        ended = {i for i, one in enumerate(after) if one.end != self.standings[i].end}
        return {
            "look": self.next_look,
            "of": self.plan.num_looks,
            "comparisons": {
                str(i): {
                    "pairs_digest": self._own(i).digest,
                    **parts.get(i, {}),
                    **({"result": _to_json(results[i])} if i in results else {}),
                    "end": after[i].end,
                    "chance": None if isnan(after[i].chance) else round(after[i].chance, ROUNDING),
                }
                for i in sorted(ended | set(results))
            },
        }

    def _part(self, i: int) -> dict[str, Any]:
        """The sums of the clusters that are new at the next look."""
        one, progress = self._own(i), self.progress[i]
        n = self.plan.num_clusters(one.task, self.next_look)
        clusters = list(self.plan.clusters[one.task].values())[progress.clusters : n]
        pairs = [[(q, s) for q in queries for s in range(len(one.arm))] for queries in clusters]
        if self.plan.is_run_level:
            dropped = [[q, s] for own in pairs for q, s in own if None in self._scores(one, q, s)]
            return {"clusters": n, "dropped": dropped}
        sums, counts = [], []
        for own in pairs:
            scores = [both for q, s in own if None not in (both := self._scores(one, q, s))]
            sums.append(round(sum(float(a or 0) - float(r or 0) for a, r in scores), ROUNDING))
            counts.append(len(scores))
        return {"clusters": n, "sums": sums, "pairs": counts}

    def _scores(self, one: PlannedComparison, query: str, seed: int) -> tuple[float | None, float | None]:
        return self.reader.score(one.arm[seed], query), self.reader.score(one.reference[seed], query)

    def _result(self, i: int, part: Mapping[str, Any]) -> LookResult:
        progress = self._extended(i, part)
        if self.plan.is_run_level:
            return self._run_level_result(i, progress)
        result: LookResult = self.tests[i].look(np.array(progress.sums), np.array(progress.pairs))
        return result

    def _run_level_result(self, i: int, progress: _Progress) -> LookResult:
        """The result of a run-level metric on the clusters so far."""
        one, dropped = self._own(i), set(progress.dropped)
        names = list(self.plan.clusters[one.task])[: progress.clusters]
        left: list[SampleRef] = []
        right: list[SampleRef] = []
        owners: list[str] = []
        assert self.metric is not None
        for seed, digests in enumerate(zip(one.reference, one.arm, strict=True)):
            places = [(name, q) for name in names for q in self.plan.clusters[one.task][name]]
            for digest, refs in zip(digests, (left, right), strict=True):
                samples = [self.reader.sample(digest, q) for _, q in places]
                samples = [replace(s, score=None) if (s.query, seed) in dropped else s for s in samples]
                statistic = RunStatistic(self.metric, tuple(samples), self.metric.run_level(samples))
                refs += [SampleRef(statistic, k) for k in range(len(samples))]
            owners += [name for name, _ in places]
        values, _, cells = align_run_statistics(left, right)
        places_of = {name: k for k, name in enumerate(names)}
        codes = np.array([places_of[name] for name in owners])
        strata = build_strata(cells, codes)
        result: LookResult = self.tests[i].look(strata, names, int(np.isfinite(values).sum()))
        return result

    def _extended(self, i: int, part: Mapping[str, Any]) -> _Progress:
        """The progress of a comparison with the clusters of a look."""
        progress = self.progress[i]
        return _Progress(
            [*progress.sums, *map(float, part.get("sums", ()))],
            [*progress.pairs, *map(float, part.get("pairs", ()))],
            int(part["clusters"]),
            (*progress.dropped, *((str(q), int(s)) for q, s in part.get("dropped", ()))),
        )

    def _apply(self, content: Look) -> None:
        """Takes over a look from its file, after this process or another one wrote it."""
        self.look += 1
        for key, entry in content.comparisons.items():
            i = int(key)
            self.standings[i] = read_standing(entry, self.standings[i], self.look)
            if entry.result is not None:
                self._replay(i, entry, entry.result)

    def _replay(self, i: int, entry: LookEntry, result: LookResult) -> None:
        """Brings the test of a comparison to the state after a look that is read from its file."""
        progress, test = self._extended(i, entry.model_dump(exclude_none=True)), self.tests[i]
        if progress.clusters > self.progress[i].clusters and not self._has_looked(i, progress.clusters):
            if self.plan.is_run_level:
                self.reader.refresh([*self._own(i).arm, *self._own(i).reference])
                self._run_level_result(i, progress)
            else:
                test.look(np.array(progress.sums), np.array(progress.pairs))
        test.p, test.side = result.p, result.side
        self.progress[i] = progress

    def _has_looked(self, i: int, clusters: int) -> bool:
        return bool(self.tests[i].looked >= clusters)


def _to_json(result: LookResult) -> dict[str, Any]:
    """NaN becomes null, and numbers have ROUNDING digits, so that equal results are equal bytes."""
    node = asdict(result)
    return {
        key: (None if isnan(value) else round(value, ROUNDING) if key != "p" else value)
        if isinstance(value, float)
        else value
        for key, value in node.items()
    }
