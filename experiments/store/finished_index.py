"""The finished and failed queries of each cell, stored with the state of the files that they were read from.

    .finished.json    cell -> state of its files, digests of its data and metrics, finished queries, failed queries

The JSON lines are the source of truth. Reading all lines of a large run takes seconds, and looking at its files takes
milliseconds. An entry is used only if size, inode and both times of every file of the cell are as they were. A cell
with damaged lines has no entry, so that each reader reports them.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.store.store import Store, write_json, write_text
from icl import __version__
from icl.errors import StoreError
from icl.text.json_text import canonical_digest

FILE = ".finished.json"
IMAGES_FILE = ".images_checked"
"""The state of the folder of images when all of them were there."""


@dataclass(frozen=True)
class CellState:
    """What the files of a cell contain.

    Attributes:
        data: Digests of the data of its task; None if the description is missing or damaged.
        metrics: Digest of the description of its metrics.
        finished: Ids of queries with an answer.
        failed: Reasons of queries without one.
    """

    data: Mapping[str, str] | None = None
    metrics: str = ""
    finished: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)


def read_cell_states(
    store: Store,
    digests: Iterable[str],
    damaged: list[str] | None = None,
    images: dict[str, tuple[str, str]] | None = None,
    unread: list[str] | None = None,
) -> dict[str, CellState]:
    """The state of each cell. Reads the lines of cells whose files have changed since the last call.

    Args:
        store: The run directory.
        digests: The cells.
        damaged: Receives the places of lines that are not complete samples of their cells.
        images: Receives cell and query of a sample for each digest of an image in a prompt of a cell that is read.
        unread: Receives the cells that are not read.
    """
    index = _read(store)
    states: dict[str, CellState] = {}
    is_new = False
    for digest in digests:
        files = _files(store, digest)
        known_files, states[digest] = index.get(digest, (None, CellState()))
        if files and files == known_files:
            if unread is not None:
                unread.append(digest)
            continue
        problems: list[str] = []
        states[digest] = state = _read_cell(store, digest, problems, images)
        if damaged is not None:
            damaged += problems
        index.pop(digest, None)
        if state.data is not None and not problems:
            index[digest], is_new = (files, state), True
    if is_new:
        _write(store, index)
    return states


def has_unchecked_images(store: Store) -> bool:
    """Whether the folder of images has changed since `mark_images_checked`."""
    try:
        return (store.folder / IMAGES_FILE).read_text(encoding="utf-8") != _images_state(store)
    except (OSError, ValueError):
        return True


def mark_images_checked(store: Store) -> None:
    """Remembers the folder of images, in which no image of a sample is missing or damaged."""
    with suppress(StoreError):
        write_text(store.folder / IMAGES_FILE, _images_state(store))


def _images_state(store: Store) -> str:
    return canonical_digest([__version__, _stats(store.folder / "images", ".png")])


def _read_cell(store: Store, digest: str, damaged: list[str], images: dict[str, tuple[str, str]] | None) -> CellState:
    description = store.read_intact_cell(digest)
    finished, failed = store.finished_and_failed(digest, damaged, images)
    if description is None:
        return CellState(finished=frozenset(finished), failed=failed)
    metrics = canonical_digest(description.get("metrics"))
    return CellState(description.get("data", {}), metrics, frozenset(finished), failed)


def _files(store: Store, digest: str) -> list[Any]:
    """The state of each file of a cell that is read."""
    return _stats(store.cell_folder(digest), (".json", ".jsonl"))


def _stats(folder: Path, suffixes: str | tuple[str, ...]) -> list[Any]:
    """[name, size, inode, last change of the content, last change of anything] of each file. Empty without a folder."""
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(suffixes)]
    except OSError:
        return []
    return sorted([name, at.st_size, at.st_ino, at.st_mtime_ns, at.st_ctime_ns] for name, at in stats)


def _read(store: Store) -> dict[str, tuple[list[Any], CellState]]:
    """Cell -> its files and its state. Empty if nothing is stored, or if another version wrote it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads((store.folder / FILE).read_bytes())
        finished = [frozenset(ids) for ids in content["finished"]]
        return {
            digest: (files, CellState(data, metrics, finished[number], failed))
            for digest, (files, data, metrics, number, failed) in content["cells"].items()
            if content["version"] == __version__
        }
    return {}


def _write(store: Store, index: Mapping[str, tuple[list[Any], CellState]]) -> None:
    """Stores the index. Most cells have finished the same queries, so each set of queries is stored once."""
    numbers: dict[frozenset[str], int] = {}
    cells = {
        digest: [files, state.data, state.metrics, numbers.setdefault(state.finished, len(numbers)), state.failed]
        for digest, (files, state) in index.items()
    }
    content = {"version": __version__, "cells": cells, "finished": [sorted(ids) for ids in numbers]}
    with suppress(StoreError):  # a full disk, or a folder of another user: the lines are read again
        write_json(store.folder / FILE, content)
