"""The finished and failed queries of each cell, stored with the state of the files that they were read from.

    .finished.json    cell -> state of its files, digests of its data and metrics, finished queries, failed queries

The JSON lines are the source of truth. Reading all lines of a large run takes seconds, and looking at its files takes
milliseconds. An entry is used only if size, inode and both times of every file of the cell are as they were; for a
reader of images, of every saved image too. A cell with damaged lines has no entry, so that each reader reports them.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from experiments.store.store import Store, write_bytes
from icl import __version__
from icl.errors import StoreError
from icl.text.json_text import canonical_digest

FILE = ".finished.json"


@dataclass(frozen=True)
class CellState:
    """What the files of a cell contain.

    Attributes:
        data: Digests of the data of its task; None if the description is missing or damaged.
        metrics: Digest of the description of its metrics.
        finished: Ids of queries with an answer.
        failed: Reasons of queries without one.
        files: The state of its files.
        images: The state of the saved images, for the last reader of images.
    """

    data: Mapping[str, str] | None = None
    metrics: str = ""
    finished: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    files: str = ""
    images: str = ""


def read_cell_states(
    store: Store,
    digests: Iterable[str],
    damaged: list[str] | None = None,
    images: dict[str, tuple[str, str]] | None = None,
) -> dict[str, CellState]:
    """The state of each cell. Reads the lines of cells whose files have changed since the last call.

    Args:
        store: The run directory.
        digests: The cells.
        damaged: Receives the places of lines that are not complete samples of their cells.
        images: Receives cell and query of a sample for each digest of an image in a prompt of a cell that is read.
    """
    index, states = _read(store), dict[str, CellState]()
    before = dict(index)
    saved = "" if images is None else canonical_digest(_stats(store.folder / "images", ".png"))
    for digest in digests:
        of_cell = _stats(store.cell_folder(digest), (".json", ".jsonl"))
        files, problems = canonical_digest([__version__, of_cell]), list[str]()
        state = index.pop(digest, None)
        if state is None or state.files != files or (saved and state.images != saved):
            state = replace(_read_cell(store, digest, problems, images), files=files, images=saved)
        states[digest] = state
        if damaged is not None:
            damaged += problems
        if state.data is not None and not problems:
            index[digest] = state
    if index != before:
        with suppress(StoreError):  # a full disk, or a folder of another user: the lines are read again
            write_bytes(store.folder / FILE, _adapter().dump_json(index))
    return states


def _read_cell(store: Store, digest: str, damaged: list[str], images: dict[str, tuple[str, str]] | None) -> CellState:
    description = store.read_intact_cell(digest)
    finished, failed = store.finished_and_failed(digest, damaged, images)
    if description is None:
        return CellState(finished=frozenset(finished), failed=failed)
    metrics = canonical_digest(description.get("metrics"))
    return CellState(description.get("data", {}), metrics, frozenset(finished), failed)


def _stats(folder: Path, suffixes: str | tuple[str, ...]) -> list[Any]:
    """[name, size, inode, last change of the content, last change of anything] of each file. Empty without a folder."""
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(suffixes)]
    except OSError:
        return []
    return sorted([name, at.st_size, at.st_ino, at.st_mtime_ns, at.st_ctime_ns] for name, at in stats)


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(dict[str, CellState])


def _read(store: Store) -> dict[str, CellState]:
    with suppress(OSError, ValueError):
        index: dict[str, CellState] = _adapter().validate_json((store.folder / FILE).read_bytes())
        return index
    return {}
