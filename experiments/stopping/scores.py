"""The scores of a run's cells as looks read them: new lines are read, in any order of completion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.store.store import Store, parse_line
from icl.metrics.base import ScoredSample

Line = Mapping[str, Any]


@dataclass
class _CellLines:
    """The finished or failed samples of a cell by query. offsets: bytes read of each file."""

    samples: dict[str, Line] = field(default_factory=dict)
    offsets: dict[Path, int] = field(default_factory=dict)


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
            cell = self.cells.setdefault(digest, _CellLines())
            paths = sorted(self.store.cell_folder(digest).glob("*.jsonl"))
            sizes = {path: path.stat().st_size for path in paths}
            if any(sizes.get(path, 0) < offset for path, offset in cell.offsets.items()):  # rewritten or merged
                self.cells[digest] = cell = _CellLines()
            for path, size in sizes.items():
                if size > cell.offsets.get(path, 0):
                    self._read(path, cell, digest)

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

    def _read(self, path: Path, cell: _CellLines, digest: str) -> None:
        start = cell.offsets.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
        except FileNotFoundError:  # merged with others a moment ago
            return
        whole = data[: data.rfind(b"\n") + 1]
        cell.offsets[path] = start + len(whole)
        for raw in whole.splitlines():
            line = parse_line(raw)
            if line is None or line["cell"] != digest:
                continue
            earlier = cell.samples.get(line["query"])
            if earlier is None or earlier.get("failed"):
                cell.samples[line["query"]] = self._part(line)

    def _part(self, line: Line) -> Line:
        failed = bool(line.get("failed"))
        part = {"failed": failed, "score": None if failed else line.get("scores", {}).get(self.metric)}
        keys = ("group", "output", "gold", "options", "meta") if self.keep_answers else ()
        return part | {key: line[key] for key in keys if key in line}
