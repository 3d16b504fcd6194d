"""A family of comparisons and its looks, in the files `looks/family-<n>/plan.json` and `look-<k>.json` of the run.

    look k   after the first n_k clusters of each task, in the order of the plan. A cluster is complete if all its
             queries under all seeds were answered or failed, in both arms. Failed pairs are dropped.
    needed   a cell is computed while any comparison that reads it runs; the reference until its last one

A look is a pure function of the plan and of the samples up to it. Its file is written once, and later looks read the
sums of clusters from it: a failed sample that is answered later changes no look. Workers may take the same look. A file
that is lost or damaged is made again, the plan from the config and a look from the samples.

An unread output counts as wrong and as right (`experiments.stats.bounds`): a look has the sums of both ends, and an arm
is better only if it is so at the low end, worse only if it is so at the high end. So unread outputs can delay a
verdict, and never make one. A run-level metric with unread outputs has no verdict.

A comparison whose arm was given up (`experiments.running.windows`) is left out of the looks. It takes them later,
when its samples are there.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import StringConstraints

from experiments import stats  # its modules load at first use: a run without `stop` needs none
from experiments.stopping.plan import REMEDY, PlannedComparison, StopPlan
from experiments.stopping.rule import (
    ComparisonTest,
    End,
    LookResult,
    NaNFromNull,
    Standing,
    between,
    end_comparisons,
)
from experiments.store import LineTail, Shape, Store, check_shape, read_mapping, scored_sample, write_json
from icl import DamagedFileError, ScoredSample
from icl.metrics.run_level import RunLevelMetric

FOLDER = "looks"
ROUNDING = 12
"""Digits of the numbers in look files."""


class LookEntry(Shape):
    """A comparison in the file of a look. Without a result, it ended by its last one. sums, pairs: of new clusters.

    With unread outputs `sums` are those of the low end, and `high_sums` those of the high end.
    """

    pairs_digest: str
    end: End
    chance: NaNFromNull
    clusters: int = 0
    sums: tuple[float, ...] | None = None
    high_sums: tuple[float, ...] | None = None
    unread: int = 0
    pairs: tuple[int, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    result: LookResult | None = None


class Look(Shape):
    """The shape of looks/family-<n>/look-<k>.json. of: the number of the last look."""

    comparisons: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], LookEntry]
    of: int | None = None


class Samples:
    """The samples of a run's cells as looks read them: new lines are read, in any order of completion.

    Args:
        store: The run directory.
        metric: The name of the score.
        run_level: The run-level metric, if it is one.
    """

    def __init__(self, store: Store, metric: str, run_level: RunLevelMetric | None = None) -> None:
        self.store, self.metric, self.run_level = store, metric, run_level
        self.tails: dict[str, LineTail] = {}
        self.cells: dict[str, dict[str, Mapping[str, Any]]] = {}

    def refresh(self, digests: Collection[str]) -> None:
        """Reads the new lines of these cells. Of a query's lines the first one without a failure counts."""
        for digest in digests:
            tail = self.tails.setdefault(digest, LineTail(digest))
            lines, replaced = tail.read(sorted(self.store.cell_folder(digest).glob("*.jsonl")))
            of_cell: dict[str, Mapping[str, Any]] = {} if replaced else self.cells.get(digest, {})
            for line in lines:
                if of_cell.get(line["query"], {"failed": True}).get("failed"):
                    of_cell[line["query"]] = self._part(line)
            self.cells[digest] = of_cell

    def has_all(self, digest: str, queries: Collection[str]) -> bool:
        """Whether every query was answered or failed."""
        return self.cells.get(digest, {}).keys() >= set(queries)

    def score(self, digest: str, query: str) -> float | None:
        """The score of a sample, or None if it failed or the metric does not apply."""
        value = self.cells[digest][query].get("score")
        return None if value is None else float(value)

    def sample(self, digest: str, query: str) -> ScoredSample:
        """The sample as a run-level metric reads it."""
        return scored_sample(self.cells[digest][query], self.score(digest, query))

    def unread(self, digest: str, query: str) -> str:
        """`unread_text` of an output that the metric cannot read with certainty, else ''."""
        return str(self.cells[digest][query].get("unread", ""))

    def _part(self, line: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the metric needs of a line."""
        keys = ("query", "group", "output", "gold", "options", "meta") if self.run_level else ()
        part = {key: line[key] for key in keys if key in line}
        failed = bool(line.get("failed"))
        if not failed and self.metric in line.get("unread", ()):
            part["unread"] = stats.unread_text(line.get("output", ""), line.get("gold"), line.get("options"))
        return part | {"failed": failed, "score": None if failed else line.get("scores", {}).get(self.metric)}


class Family:
    """A family of comparisons and its looks.

    Args:
        folder: The folder of the family's files.
        plan: Its plan.
        cells: The digests of the grid. A comparison waits if its arms have left the grid, and stays in the family.
            None: all.

    Attributes:
        look: The number of looks that were taken or read.
        standings: One per comparison.
        clusters: The number of clusters that each comparison has used.
        entries: The entries with results of each comparison, in order.
        mended: Files that were damaged or lost and are made again.
    """

    def __init__(self, folder: Path, plan: StopPlan, cells: Collection[str] | None = None) -> None:
        self.folder, self.plan, self.cells = folder, plan, cells
        self.look = 0
        self.standings = [Standing() for _ in plan.comparisons]
        self.clusters = [0] * plan.family
        self.entries: list[list[LookEntry]] = [[] for _ in plan.comparisons]
        self.tests: dict[int, tuple[ComparisonTest, ComparisonTest]] = {}  # of both ends
        self.mended: list[Path] = []

    @property
    def running(self) -> list[int]:
        """The comparisons that have not ended and whose arms are in the grid."""
        return [
            i
            for i, (one, standing) in enumerate(zip(self.plan.comparisons, self.standings, strict=True))
            if standing.end == "running" and (self.cells is None or set(one.sides) <= set(self.cells))
        ]

    def describe(self) -> str:
        """'look 6 of 20: 3 of 8 comparisons have ended (2 decided, 1 open)'."""
        counts = {end: sum(one.end == end for one in self.standings) for end in ("decided", "equal", "open")}
        ended = ", ".join(f"{count} {end}" for end, count in counts.items() if count)
        of = f"{sum(counts.values())} of {self.plan.family} comparisons have ended{f' ({ended})' if ended else ''}"
        return f"look {self.look} of {self.plan.num_looks}: {of}" if self.look else f"no look yet: {of}"

    def needed(self, look: int) -> dict[str, set[str]]:
        """The queries of each cell of the family that are needed up to a look."""
        needed: dict[str, set[str]] = {}
        running = {i: self.plan.num_clusters(self.plan.comparisons[i].task, look) for i in self.running}
        for task in self.plan.clusters:
            own = [i for i, one in enumerate(self.plan.comparisons) if one.task == task]
            counts = {i: running.get(i, self.clusters[i]) for i in own}
            cells = {digest: 0 for i in own for digest in self.plan.comparisons[i].cells}
            for i, n in counts.items():
                cells |= {digest: max(n, cells[digest]) for digest in self.plan.comparisons[i].cells}
            untested = max(counts.values(), default=len(self.plan.clusters[task]))
            cells |= dict.fromkeys(self.plan.untested.get(task, ()), untested)
            queries = {n: self.plan.queries(task, n) for n in set(cells.values())}
            needed |= {digest: queries[n] for digest, n in cells.items()}
        return needed

    def read(self) -> "Family":
        """Takes over the looks that were written. Raises DamagedFileError."""
        while (content := self._read()) is not None:
            self._apply(content)
        return self

    def advance(self, samples: Samples, given_up: Collection[str] = ()) -> None:
        """Takes every look whose samples are there, or reads it if it was taken.

        Args:
            samples: The samples of the run.
            given_up: Cells that are not computed. Their comparisons do not hold up a look.
        """
        while self.running:
            path, damaged = self.path(self.look + 1), False
            try:
                content = self._read()
            except DamagedFileError:
                content, damaged = None, True
            if content is None:
                ready = [i for i in self.running if not set(self.plan.comparisons[i].sides) & set(given_up)]
                samples.refresh({digest for i in ready for digest in self.plan.comparisons[i].sides})
                if not ready or not all(self._is_complete(self.plan.comparisons[i], samples) for i in ready):
                    break
                if damaged:
                    path.unlink(missing_ok=True)
                    self.mended.append(path)
                if not path.exists():
                    write_json(path, self._evaluate(ready, samples))
                content = self._read()
            if content is not None:
                self._apply(content)

    def sums(self, i: int, *, high: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([n] sums, [n] numbers of pairs) of the clusters that a comparison has used, at the low or the high end."""
        return _joined(self.entries[i], high=high)

    def path(self, look: int) -> Path:
        """The file of a look."""
        return self.folder / f"look-{look:03}.json"

    def has_foreign_looks(self) -> bool:
        """Whether a look that can be read has comparisons of another plan."""
        for path in self.folder.glob("look-*.json"):
            with suppress(DamagedFileError):
                if not self._is_own(check_shape(Look, read_mapping(path, REMEDY) or {}, path, REMEDY)):
                    return True
        return False

    def _is_own(self, look: Look) -> bool:
        digests = {str(i): one.digest for i, one in enumerate(self.plan.comparisons)}
        is_own = all(entry.pairs_digest == digests.get(key) for key, entry in look.comparisons.items())
        return is_own and look.of in (None, self.plan.num_looks)

    def _read(self) -> Look | None:
        """The next look, or None if it was not taken.

        Raises:
            DamagedFileError: The file is damaged, has comparisons of another plan, does not go on from the last look,
                or is missing before a later look.
        """
        path = self.path(self.look + 1)
        if (node := read_mapping(path, REMEDY)) is None:
            if any(later.name > path.name for later in self.folder.glob("look-*.json")):
                raise DamagedFileError(f"{path} is missing. {REMEDY}")
            return None
        content = check_shape(Look, node, path, REMEDY)
        if not self._is_own(content):
            raise DamagedFileError(f"{path} has comparisons of another plan. {REMEDY}")
        for key, entry in content.comparisons.items():
            if entry.sums is not None and len(entry.sums) != entry.clusters - self.clusters[int(key)]:
                raise DamagedFileError(f"{path} does not continue the previous look. {REMEDY}")
        return content

    def _apply(self, content: Look) -> None:
        self.look += 1
        for key, entry in content.comparisons.items():
            i = int(key)
            if entry.result is None:
                self.standings[i] = replace(self.standings[i], end=entry.end, chance=entry.chance)
                continue
            self.standings[i] = Standing(entry.result, entry.end, self.look, entry.chance)
            self.clusters[i] = entry.clusters
            self.entries[i].append(entry)

    def _is_complete(self, one: PlannedComparison, samples: Samples) -> bool:
        queries = self.plan.queries(one.task, self.plan.num_clusters(one.task, self.look + 1))
        return all(samples.has_all(digest, queries) for digest in one.sides)

    def _evaluate(self, ready: Sequence[int], samples: Samples) -> dict[str, Any]:
        """The content of the next look's file."""
        look = self.look + 1
        parts = {i: self._part(i, samples) for i in ready}
        results = {i: self._result(i, part, samples) for i, part in parts.items()}
        after = end_comparisons(self.standings, results, look, self.plan.stop, self.plan.family)
        ended = {i for i, one in enumerate(after) if one.end != self.standings[i].end}
        nodes: dict[str, Any] = {}
        for i in sorted(ended | set(results)):
            node: dict[str, Any] = {"pairs_digest": self.plan.comparisons[i].digest}
            if i in results:
                keys = {"clusters", "dropped"} if samples.run_level else {"clusters", "sums", "pairs"}
                keys |= {"unread", "high_sums"} if parts[i].unread else set()
                result = {key: _to_json(key, value) for key, value in asdict(results[i]).items()}
                node |= {**parts[i].model_dump(include=keys, exclude_none=True), "result": result}
            nodes[str(i)] = {**node, "end": after[i].end, "chance": _to_json("chance", after[i].chance)}
        return {"look": look, "of": self.plan.num_looks, "comparisons": nodes}

    def _part(self, i: int, samples: Samples) -> LookEntry:
        """The sums of the clusters that are new at the next look, before the result is known."""
        one = self.plan.comparisons[i]
        n = self.plan.num_clusters(one.task, self.look + 1)
        sums, high_sums, counts, dropped, unread = list[float](), list[float](), [], [], 0
        for _, *queries in self.plan.clusters[one.task][self.clusters[i] : n]:
            pairs = []
            for query, seed in ((query, seed) for query in queries for seed in range(len(one.arm))):
                arm, reference = samples.score(one.arm[seed], query), samples.score(one.reference[seed], query)
                if arm is None or reference is None:
                    dropped.append((query, seed))
                else:
                    texts = samples.unread(one.reference[seed], query), samples.unread(one.arm[seed], query)
                    pairs.append((reference, arm, *texts))
                    unread += sum(map(bool, texts))
            for part, end in zip(
                (sums, high_sums), stats.pair_ends(*np.array(pairs, dtype=object).reshape(-1, 4).T), strict=True
            ):
                part.append(round(float(end.sum()), ROUNDING))
            counts.append(len(pairs))
        return LookEntry(
            pairs_digest=one.digest,
            end="running",
            chance=0.0,
            clusters=n,
            sums=tuple(sums),
            high_sums=tuple(high_sums) if unread else None,
            unread=unread,
            pairs=tuple(counts),
            dropped=tuple(dropped),
        )

    def _result(self, i: int, part: LookEntry, samples: Samples) -> LookResult:
        one, entries = self.plan.comparisons[i], [*self.entries[i], part]
        if i not in self.tests:
            design = self.plan.design(one.task), self.plan.stop, self.plan.family
            self.tests[i] = ComparisonTest(*design), ComparisonTest(*design)
        low_test, high_test = self.tests[i]
        has_unread = any(entry.unread for entry in entries)
        if samples.run_level is None:
            low = low_test.look(*_joined(entries))
            return between(low, high_test.look(*_joined(entries, high=True))) if has_unread else low
        dropped = {place for entry in entries for place in entry.dropped}
        pairs_left = len(self.plan.queries(one.task, part.clusters)) * len(one.arm) - len(dropped)
        differences = partial(self._exchanged, one, samples, dropped)
        result = low_test.look_at_run(part.clusters, pairs_left, differences)
        return replace(result, p=1.0, side=0) if has_unread else result

    def _exchanged(
        self,
        one: PlannedComparison,
        samples: Samples,
        dropped: Collection[tuple[str, int]],
        clusters: int,
        rows: int,
    ) -> NDArray[np.float64]:
        """[rows] differences of a run-level metric on the first clusters, the data first."""
        assert samples.run_level is not None
        places = [(name, q) for name, *queries in self.plan.clusters[one.task][:clusters] for q in queries]

        def answers(digest: str, seed: int) -> list[ScoredSample]:
            own = (samples.sample(digest, query) for _, query in places)
            return [replace(s, score=None) if (s.query, seed) in dropped else s for s in own]

        cells = [
            (answers(reference, seed), answers(arm, seed))
            for seed, (reference, arm) in enumerate(zip(one.reference, one.arm, strict=True))
        ]
        names = [name for name, _ in places]
        return stats.differences_at_look(samples.run_level, cells, names, rows, self.plan.stop.seed)


def _joined(entries: Sequence[LookEntry], *, high: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([n] sums, [n] numbers of pairs) of clusters. high: at the high end, where it has sums of its own."""
    sums = [x for one in entries for x in (one.high_sums if high and one.high_sums else one.sums) or ()]
    pairs = [x for one in entries for x in one.pairs]
    return np.array(sums, dtype=np.float64), np.array(pairs, dtype=np.float64)


def _to_json(key: str, value: Any) -> Any:
    """NaN becomes null, and numbers have ROUNDING digits, so that equal results are equal bytes. p is a level."""
    if not isinstance(value, float) or key == "p":
        return value
    return None if isnan(value) else round(value, ROUNDING)


def read_families(run: Path) -> list[Family]:
    """The families of a run directory; empty without `stop`. Raises StoreError for a damaged file."""
    return [Family(folder, read_plan(folder)).read() for folder in family_folders(run)]


def common_queries(families: Sequence[Family]) -> Mapping[str, set[str]]:
    """Task -> the queries on which all of its compared arms stand: the means of a table are comparable on these.

    An arm stands on the clusters of its longest comparison that has ended or has taken the last look.
    """
    queries: dict[str, set[str]] = {}
    for plan, task in ((family.plan, task) for family in families for task in family.plan.clusters):
        cells: dict[str, int] = {}
        for family in families:
            now = family.plan.num_clusters(task, family.look) if task in family.plan.clusters else 0
            for one, standing, n in zip(family.plan.comparisons, family.standings, family.clusters, strict=True):
                if one.task == task and (standing.end != "running" or n == now):
                    cells |= {digest: max(n, cells.get(digest, 0)) for digest in one.cells}
        queries[task] = plan.queries(task, min(cells.values(), default=len(plan.clusters[task])))
    return queries


def family_folders(run: Path) -> list[Path]:
    """The folders of the families that a run has, in order."""
    folders = {path.parent for path in (run / FOLDER).glob("family-*/*.json")}
    numbers = {folder: folder.name.removeprefix("family-") for folder in folders}
    return sorted((folder for folder in folders if numbers[folder].isdecimal()), key=lambda one: int(numbers[one]))


def family_folder(run: Path, number: int) -> Path:
    """The folder of a family."""
    return run / FOLDER / f"family-{number}"


def read_plan(family: Path) -> StopPlan:
    """The plan of a family. Raises DamagedFileError if it is damaged or missing."""
    path = family / "plan.json"
    content = read_mapping(path, REMEDY)
    if content is None:
        raise DamagedFileError(f"{path} is missing. {REMEDY}")
    return check_shape(StopPlan, content, path, REMEDY)
