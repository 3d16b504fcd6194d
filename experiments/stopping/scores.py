"""The scores of a run's cells as looks read them: new lines are read, in any order of completion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.store.line_tail import LineTail
from experiments.store.store import Store
from icl.metrics.base import ScoredSample

Line = Mapping[str, Any]


@dataclass
class _CellLines:
    """The finished or failed samples of a cell by query."""

    tail: LineTail
    samples: dict[str, Line] = field(default_factory=dict)


class ScoreReader:
    """A reader of the samples of cells that keeps what one metric needs.

    Args:
        store: The run directory.
        metric: The name of the score.
        keep_answers: Whether to keep what a run-level metric reads, not the score alone.
    """

    def __init__(self, store: Store, metric: str, keep_answers: bool = False) -> None:
        self.store, self.metric, self.keep_answers = store, metric, keep_answers
        self.cells: dict[str, _CellLines] = {}

    def refresh(self, digests: Sequence[str]) -> None:
        """Reads the new lines of these cells."""
        for digest in digests:
            cell = self.cells.setdefault(digest, _CellLines(LineTail(digest)))
            lines, replaced = cell.tail.read(sorted(self.store.cell_folder(digest).glob("*.jsonl")))
            if replaced:
                cell.samples.clear()
            for line in lines:
                earlier = cell.samples.get(line["query"])
                if earlier is None or earlier.get("failed"):
                    cell.samples[line["query"]] = self._part(line)

    def has_all(self, digest: str, queries: Sequence[str]) -> bool:
        """Whether every query was answered or failed."""
        samples = self.cells[digest].samples if digest in self.cells else {}
        return all(query in samples for query in queries)

    def score(self, digest: str, query: str) -> float | None:
        """The score of a sample, or None if it failed or the metric does not apply."""
        value = self.cells[digest].samples[query].get("score")
        return None if value is None else float(value)

    def sample(self, digest: str, query: str) -> ScoredSample:
        """The sample as a run-level metric reads it."""
        line = self.cells[digest].samples[query]
        return ScoredSample(
            query=query,
            score=self.score(digest, query),
            group=line.get("group"),
            output=line.get("output"),
            gold=tuple(line.get("gold", ())),
            options=tuple(line.get("options", ())),
            meta=line.get("meta", {}),
        )

    def _part(self, line: Line) -> Line:
        failed = bool(line.get("failed"))
        part = {"failed": failed, "score": None if failed else line.get("scores", {}).get(self.metric)}
        keys = ("group", "output", "gold", "options", "meta") if self.keep_answers else ()
        return part | {key: line[key] for key in keys if key in line}
