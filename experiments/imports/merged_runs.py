"""One run directory from several runs that pair: their cells, samples, images and processes, with common labels.

    cells       content-addressed, so a cell that two runs have is one cell; the first finished sample of a query counts
    labels      an axis keeps its labels if equal values have equal labels in all runs, otherwise they are made again
    processes   the lines of invocations.jsonl get new numbers, and the samples with them
    pairs       runs with the same task must have the same queries, the same demonstrations pool and the same seeds

The folder is written as a whole and then put in place, so that nothing of an earlier merge remains. run.json names the
runs and the sizes of their files: the merged run says so if one of them has changed since.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config.keys import AXES
from experiments.grid.axis_labels import short_labels
from experiments.stats import format_count, join_words
from experiments.stopping.looks import read_families
from experiments.store import IMPORTED, MERGED, files_size, invocations_file, is_locked, read_invocations, unite_labels
from experiments.store.store import Store, image_files, report_write_errors
from icl import StoreError, canonical_digest

NUMBERS = ("shots", "max_new_tokens")
"""Axes whose labels are their values."""
TITLED = ("task", "decoding")
"""Axes whose components have titles."""
PARAMETERS = re.compile(r"\([^()]*=[^()]*\)$")
"""The end of a label that has the parameters in which two components of a title differ."""
Cells = dict[str, dict[str, Any]]


@dataclass
class MergedRun:
    """What was merged. differing: the number of samples with different answers in two runs. labels: lines of labels."""

    cells: int = 0
    samples: int = 0
    shared: int = 0
    differing: int = 0
    labels: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """A run that is merged, with the descriptions of its cells."""

    path: Path
    store: Store
    info: Mapping[str, Any]
    cells: Cells


def merge_runs(out: Path, runs: Sequence[Path]) -> MergedRun:
    """Writes a run directory with the samples of several runs.

    Args:
        out: The folder. An earlier merge in it is replaced.
        runs: The run directories. The settings of the first one's `compare` hold.

    Raises:
        StoreError: A folder is not a run, runs do not pair, or the folder cannot be written or has something else.
    """
    sources = _read(out, runs)
    _check_pairs(sources)
    done = MergedRun(notes=list(_notes(sources)))
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with report_write_errors(out):
            part.mkdir(parents=True)
        _write(Store(part), out, sources, done)
        with report_write_errors(out):
            if out.exists():
                shutil.rmtree(out)
            part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _read(out: Path, runs: Sequence[Path]) -> list[_Source]:
    real = [path.resolve() for path in runs]
    if len(set(real)) < len(real) or len(real) < 2:
        raise StoreError("a merge needs at least two different runs.")
    if out.resolve() in real:
        raise StoreError(f"{out} is one of the runs to merge. Use another name.")
    if os.path.exists(out) and not _is_merged(out):
        raise StoreError(f"{out} exists and is not a merged run. Use another name.")
    sources = []
    for path in runs:
        store = Store(path)
        info = store.read_run()
        if info is None:
            raise StoreError(f"{path} is not a run directory (no run.json).")
        if read_families(path):
            raise StoreError(f"{path}: its comparisons end when they are decided (`stop`), so it cannot be merged.")
        if is_locked(path):
            raise StoreError(f"{path} is being run. Merge it when it has finished.")
        cells = {digest: store.read_cell(digest) or {} for digest in info.get("cells", ())}
        if not cells or not all(cell.get("labels") for cell in cells.values()):
            raise StoreError(f"{path} has no cells with labels: it has no finished sample yet, or is damaged.")
        sources.append(_Source(path, store, info, cells))
    return sources


def _is_merged(out: Path) -> bool:
    with suppress(StoreError):
        return MERGED in (Store(out).read_run() or {})
    return False


def _check_pairs(sources: Sequence[_Source]) -> None:
    """Refuses runs whose arms could not be compared: other scores, other queries of a task, or other seeds."""
    first: dict[tuple[str, str], tuple[Any, Path]] = {}

    def same(kind: str, name: str, value: Any, path: Path) -> Path | None:
        earlier, where = first.setdefault((kind, name), (value, path))
        return None if earlier == value else where

    for source in sources:
        for name, node in source.info.get("metrics", {}).items():
            if where := same("metric", name, node, source.path):
                raise StoreError(
                    f"{where} and {source.path} do not pair: their score '{name}' has other parameters or code. Give "
                    "the same `metrics` to both and run them again, which only scores the answers."
                )
        seeds: dict[str, set[Any]] = {}
        for cell in source.cells.values():
            task = _task(cell)
            seeds.setdefault(task, set()).add(cell.get("seed"))
            for what in cell.get("data", {}):
                if where := same(what, task, cell["data"][what], source.path):
                    raise StoreError(
                        f"{where} and {source.path} do not pair: the {what} of task '{cell['labels']['task']}' differ, "
                        "because its data changed between the runs. Run one of them again."
                    )
        for task, own in seeds.items():
            if where := same("seeds", task, own, source.path):
                label = next(cell["labels"]["task"] for cell in source.cells.values() if _task(cell) == task)
                theirs = first["seeds", task][0]
                raise StoreError(
                    f"{where} and {source.path} do not pair: task '{label}' has other seeds ({_listed(theirs)}; "
                    f"{_listed(own)}). Run both with the same seeds."
                )


def _notes(sources: Sequence[_Source]) -> Iterator[str]:
    names = {name for source in sources for name in source.info.get("metrics", {})}
    for name in sorted(names):
        if without := [str(source.path) for source in sources if name not in source.info.get("metrics", {})]:
            yield f"the samples of {join_words(without)} have no score '{name}'."


def _write(store: Store, out: Path, sources: Sequence[_Source], done: MergedRun) -> None:
    cells: Cells = {}
    owners: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for number, source in enumerate(sources):
        planned = dict(zip(source.cells, source.info.get("sizes") or (), strict=False))
        for digest, cell in source.cells.items():
            cells.setdefault(digest, cell)
            owners.setdefault(digest, []).append(number)
            sizes[digest] = max(sizes.get(digest, 0), planned.get(digest, 0))
    offsets = _write_invocations(store, sources)
    for digest, labels in _labels(cells).items():
        every = [sources[number].cells[digest] for number in owners[digest]]
        control = all(cell.get("control") for cell in every)
        controls = list(dict.fromkeys(owner for cell in every for owner in cell.get("controls", ())))
        store.write_cell(digest, {**cells[digest], "labels": labels, "control": control, "controls": controls})
        samples = _samples(digest, [(sources[n].store, offsets[n]) for n in owners[digest]], done)
        store.replace_samples(digest, samples)
        sizes[digest] = max(sizes[digest], len(samples))
        done.samples += len(samples)
    done.cells, done.shared = len(cells), sum(len(own) > 1 for own in owners.values())
    _link_images(store.folder / "images", sources)
    done.labels = unite_labels(store.folder, [source.path for source in sources])
    store.write_run(_info(out, sources, list(cells), [sizes[digest] for digest in cells]))


def _samples(digest: str, stores: Sequence[tuple[Store, int]], done: MergedRun) -> list[dict[str, Any]]:
    """The samples of a cell with new numbers of processes: of each query the first one that did not fail."""
    by_query: dict[str, dict[str, Any]] = {}
    for store, offset in stores:
        for sample in store.samples(digest):
            for name in ("invocation", "scores_invocation"):
                if sample.get(name):
                    sample[name] += offset
            earlier = by_query.get(sample["query"])
            if earlier is None or (earlier.get("failed") and not sample.get("failed")):
                by_query[sample["query"]] = sample
            elif not sample.get("failed"):
                done.differing += earlier.get("output") != sample.get("output")
    return list(by_query.values())


def _write_invocations(store: Store, sources: Sequence[_Source]) -> list[int]:
    """Writes the lines of all processes. Returns what is added to the numbers of each run."""
    offsets, lines, last = [], [], 0
    for source in sources:
        offsets.append(last)
        own = read_invocations(source.store)
        lines += [json.dumps({**line, "id": number + last}, ensure_ascii=False) for number, line in own.items()]
        last += max(own, default=0)
    with report_write_errors(store.folder):
        invocations_file(store).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return offsets


def _labels(cells: Cells) -> dict[str, dict[str, Any]]:
    """The labels of each cell: unchanged on an axis on which labels and values correspond, else made again."""
    labels = {digest: dict(cell["labels"]) for digest, cell in cells.items()}
    for axis in AXES:
        if axis in NUMBERS:
            continue
        keys = {digest: _key(cell, axis) for digest, cell in cells.items()}
        pairs = {(keys[digest], str(labels[digest][axis])) for digest in cells if axis in labels[digest]}
        if len({key for key, _ in pairs}) == len(pairs) == len({label for _, label in pairs}):
            continue
        titles = [PARAMETERS.sub("", str(labels[digest][axis])) if axis in TITLED else None for digest in cells]
        for digest, label in zip(cells, short_labels([c.get(axis) for c in cells.values()], titles), strict=True):
            if axis in cells[digest]:  # an imported cell has labels only
                labels[digest][axis] = label
    return labels


def _info(out: Path, sources: Sequence[_Source], cells: list[str], sizes: list[int]) -> dict[str, Any]:
    first = sources[0].info
    folder = (sources[0].path / str(first.get("folder", ""))).resolve()
    config = {key: value for key, value in (first.get("config") or {}).items() if key in ("compare", "by", "metrics")}
    clusters = {
        cell: number
        for source in sources
        for cell, number in zip(source.cells, source.info.get("clusters") or (), strict=False)
    }
    metrics = {name: node for source in reversed(sources) for name, node in source.info.get("metrics", {}).items()}
    # the state of the last session is the state of the run
    sessions = [list(source.info.get("sessions") or [{"state": "finished"}]) for source in sources]
    sessions.sort(key=lambda own: own[-1].get("state", "finished") != "finished")
    return {
        "name": out.name,
        MERGED: [
            {"run": os.path.relpath(source.path.resolve(), out.resolve()), "bytes": files_size(source.path)}
            for source in sources
        ],
        **({IMPORTED: first[IMPORTED]} if IMPORTED in first else {}),
        "folder": os.path.relpath(folder, out.resolve()),
        "config": config,
        "cells": cells,
        "sizes": sizes,
        **({"clusters": [clusters[cell] for cell in cells]} if len(clusters) == len(cells) else {}),
        "metrics": metrics,
        "sessions": [session for own in sessions for session in own],
    }


def _link_images(folder: Path, sources: Sequence[_Source]) -> None:
    """The images of all runs, as hard links where the file system allows them."""
    with report_write_errors(folder):
        folder.mkdir(exist_ok=True)
        for source in sources:
            for path in image_files(source.path):
                target = folder / path.name
                if target.exists():
                    continue
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)


def _key(cell: Mapping[str, Any], axis: str) -> str:
    """The value of a cell on an axis as text; its label if the cell was imported and has no value."""
    if axis not in cell:
        return f"label {cell['labels'].get(axis)}"
    node = cell[axis]
    return json.dumps(None if node == [] else node, sort_keys=True, default=repr)


def _task(cell: Mapping[str, Any]) -> str:
    return canonical_digest(_key(cell, "task"))


def _listed(seeds: set[Any]) -> str:
    return ", ".join(map(str, sorted(seeds, key=str)))


def describe_merge(done: MergedRun) -> Iterator[str]:
    """Sentences on what was merged."""
    yield f"merged {format_count(done.samples, 'sample')} in {format_count(done.cells, 'cell')}"
    if done.shared:
        yield (
            f"{format_count(done.shared, 'cell is', 'cells are')} in several runs"
            + (
                f", with {format_count(done.differing, 'answer')} that differ: those of the first run count"
                * bool(done.differing)
            )
        )
    if done.labels:
        yield f"{format_count(done.labels, 'label')} of outputs"
    yield from done.notes
