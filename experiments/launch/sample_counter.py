"""How far a run is, counted from its files as they grow: each call reads what is new since the last one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.store.store import Store, parse_line


@dataclass
class _Cell:
    """of: how many samples it will have. finished, failed: ids of queries. read: file -> bytes of whole lines."""

    of: int | None
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    read: dict[Path, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.finished) + len(self.failed)


class SampleCounter:
    """Counts the samples of cells. workers: whose files are read; None: all.

    sizes: how many samples each cell will have, None where nobody knows.
    """

    def __init__(self, store: Store, sizes: Sequence[tuple[str, int | None]], workers: Collection[str] | None) -> None:
        self.store, self.workers = store, workers
        self.cells = {digest: _Cell(of) for digest, of in sizes}

    def poll(self) -> list[tuple[str, str]]:
        """Reads what is new. (sample, reason) of what failed anew."""
        before = {digest: set(cell.failed) for digest, cell in self.cells.items()}
        for digest, cell in self.cells.items():
            self._look(digest, cell)
        return [
            (query, reason)
            for digest, cell in self.cells.items()
            for query, reason in cell.failed.items()
            if query not in before[digest]
        ]

    @property
    def done(self) -> int:
        """Samples that are finished or failed."""
        return sum(cell.done for cell in self.cells.values())

    @property
    def failed(self) -> int:
        return sum(len(cell.failed) for cell in self.cells.values())

    @property
    def samples(self) -> int:
        """How many there will be; 0 where nobody knows."""
        known = [cell.of for cell in self.cells.values() if cell.of is not None]
        return sum(known) if len(known) == len(self.cells) else 0

    @property
    def cells_done(self) -> int:
        return sum(cell.of is not None and cell.done >= cell.of for cell in self.cells.values())

    def _look(self, digest: str, cell: _Cell) -> None:
        paths = self._files(digest)
        sizes = {path: path.stat().st_size for path in paths if path.exists()}
        if any(sizes.get(path, 0) < read for path, read in cell.read.items()):  # written anew, or put together
            self.cells[digest] = cell = _Cell(cell.of)
        for path, size in sizes.items():
            if size > cell.read.get(path, 0):
                self._read(path, cell, digest)

    def _files(self, digest: str) -> list[Path]:
        folder = self.store.cell_folder(digest)
        if self.workers is None:
            return sorted(folder.glob("*.jsonl"))
        return [folder / f"{worker}.jsonl" for worker in self.workers]

    @staticmethod
    def _read(path: Path, cell: _Cell, digest: str) -> None:
        start = cell.read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
        except OSError:  # put together with others a moment ago
            return
        whole = data[: data.rfind(b"\n") + 1]
        cell.read[path] = start + len(whole)
        for raw in whole.splitlines():
            line = parse_line(raw)
            if line is None or line["cell"] != digest:
                continue
            query = line["query"]
            if not line.get("failed"):
                cell.finished.add(query)
                cell.failed.pop(query, None)
            elif query not in cell.finished:
                cell.failed[query] = str(line["failed"])
