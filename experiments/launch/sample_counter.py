"""Count a run's samples from its files while they grow. Each call reads only new lines."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.store.line_tail import LineTail
from experiments.store.store import Store, sample_files


@dataclass
class _CellCount:
    """The samples of one cell that were read.

    Attributes:
        of: Number of samples that the cell will have; None if unknown.
        finished: Ids of queries.
        failed: Id of a query -> reason.
    """

    tail: LineTail
    of: int | None
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.finished) + len(self.failed)


class SampleCounter:
    """A counter of the samples in the files of a run.

    Args:
        sizes: (digest of a cell, number of samples that it will have or None if unknown).
        workers: The workers whose files are read; None: all files.
    """

    def __init__(self, store: Store, sizes: Sequence[tuple[str, int | None]], workers: Collection[str] | None) -> None:
        self.store, self.workers = store, workers
        self.cells = {digest: _CellCount(LineTail(digest), of) for digest, of in sizes}

    def poll(self) -> list[tuple[str, str]]:
        """Reads new lines. Returns (sample, reason) of new failures."""
        before = {digest: set(cell.failed) for digest, cell in self.cells.items()}
        for cell in self.cells.values():
            self._update(cell)
        return [
            (query, reason)
            for digest, cell in self.cells.items()
            for query, reason in cell.failed.items()
            if query not in before[digest]
        ]

    @property
    def done(self) -> int:
        """Number of finished or failed samples."""
        return sum(cell.done for cell in self.cells.values())

    @property
    def failed(self) -> int:
        return sum(len(cell.failed) for cell in self.cells.values())

    @property
    def samples(self) -> int:
        """Number of samples that there will be; 0 if unknown."""
        sizes = [cell.of for cell in self.cells.values() if cell.of is not None]
        return sum(sizes) if len(sizes) == len(self.cells) else 0

    @property
    def cells_done(self) -> int:
        return len(self.finished_cells)

    @property
    def finished_cells(self) -> list[str]:
        """The digests of cells whose samples are all finished or failed."""
        return [digest for digest, cell in self.cells.items() if cell.of is not None and cell.done >= cell.of]

    def _update(self, cell: _CellCount) -> None:
        lines, replaced = cell.tail.read(self._files(cell.tail.digest))
        if replaced:
            cell.finished.clear()
            cell.failed.clear()
        for line in lines:
            query = line["query"]
            if not line.get("failed"):
                cell.finished.add(query)
                cell.failed.pop(query, None)
            elif query not in cell.finished:
                cell.failed[query] = str(line["failed"])

    def _files(self, digest: str) -> list[Path]:
        folder = self.store.cell_folder(digest)
        if self.workers is None:
            return sample_files(folder)
        return [folder / f"{worker}.jsonl" for worker in self.workers]
