"""Which samples of a grid a run directory has, and whether the directory may be extended.

Cells are content-addressed. If a config gets more values on an axis, its earlier cells are finished already. Cells that
the config no longer has stay in the folder, but not in tables. A folder is refused if it shares no cell with the config
(another experiment under the same name), or if queries or demonstrations of a task have changed.

The finished and failed queries of each cell are stored with the state of the files that they were read from:

    .finished.json    cell -> state of its files, digests of its data and metrics, finished queries, failed queries

The JSON lines are the source of truth. Reading all lines of a large run takes seconds, and looking at its files takes
milliseconds. An entry is used only if size, inode and both times of every file of the cell are as they were; for a
reader of images, of every saved image too. A cell with damaged lines has no entry, so that each reader reports them."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from decoding.arms.equivalence import GREEDY, is_control_of_greedy, is_equivalent_to_greedy, registered_traits
from experiments.config.keys import AXES, DEMONSTRATION_AXES
from experiments.grid import Cell, Grid, data_digests
from experiments.store.json_shapes import refuse_imported
from experiments.store.store import Store, write_bytes
from icl import StoreError, __version__, canonical_digest, pydantic
from icl.registry import describe, is_builtin
from icl.tasks.source import former_id

REMEDY = "Use another name, or --fork to start a new run from its config."


@dataclass
class RunState:
    """The finished and missing samples of a grid.

    Attributes:
        missing: For each cell, the ids of queries without a finished sample.
        failed: For each cell, the reasons of queries that failed in an earlier session.
        present: The number of finished samples.
        total: The number of samples.
        damaged: The places of lines that are not complete samples of their cells.
        lost: Cells with samples whose cell.json is missing or damaged. `write_cells` writes it again.
        changed: For each title of a task whose data set has another commit on its hub than it had, the one it had.
    """

    missing: dict[str, set[str]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    present: int = 0
    total: int = 0
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)

    def restrict(self, grid: Grid, limit: int) -> None:
        """Leaves the first `limit` queries of each task. The others are neither missing nor present."""
        self.total = self.present = 0
        for cell in grid.cells:
            first = {query.id for query in cell.task.queries[:limit]}
            self.missing[cell.digest] &= first
            self.total += len(first)
            self.present += len(first) - len(self.missing[cell.digest])

    @property
    def left(self) -> int:
        return self.total - self.present

    @property
    def finished_cells(self) -> list[str]:
        """The digests of cells without a missing sample."""
        return [digest for digest, queries in self.missing.items() if not queries]

    @property
    def cells_done(self) -> int:
        return len(self.finished_cells)


def load_run_state(
    store: Store,
    grid: Grid,
    run_grid: Grid | None = None,
    images: dict[str, tuple[str, str]] | None = None,
) -> RunState:
    """The state of a grid in a run directory.

    Args:
        store: The run directory.
        grid: The cells to look at.
        run_grid: All cells of the run, if `grid` has only a worker's share of them.
        images: Receives cell and query of a sample for each digest of an image in a prompt, unless neither the cell nor
            the folder of images has changed since the last call with `images`.

    Raises:
        StoreError: The folder belongs to another experiment, or its data have changed.
    """
    _check_shared(store, run_grid or grid)
    digests = {id(task): data_digests(task) for task in grid.tasks}
    ids = {id(task): [query.id for query in task.queries] for task in grid.tasks}
    state = RunState()
    states = read_cell_states(store, [cell.digest for cell in grid.cells], state.damaged, images)
    for cell in grid.cells:
        stored = states[cell.digest]
        _check_data(store, cell, stored.data or {}, digests[id(cell.task)])
        had, has = (former_id(one.get("revision")) for one in (stored.data or {}, digests[id(cell.task)]))
        if had and had != has and stored.finished:
            state.changed[cell.task.title] = had
        if stored.data is None and (stored.finished or stored.failed):
            state.lost.append(cell.digest)
        queries = ids[id(cell.task)]
        state.missing[cell.digest] = set(queries) - stored.finished
        state.failed[cell.digest] = dict(stored.failed)
        state.total += len(queries)
        state.present += len(queries) - len(state.missing[cell.digest])
    return state


def write_cells(store: Store, grid: Grid) -> None:
    """Writes cell.json of every cell that lacks it or has changed labels."""
    for cell, content in describe_cells(grid):
        if store.read_intact_cell(cell.digest) != content:
            store.write_cell(cell.digest, content)


def describe_cells(grid: Grid) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell with the content of its cell.json."""
    digests = {id(task): data_digests(task) for task in grid.tasks}
    metrics = describe_metrics(grid)
    for cell in grid.cells:
        content = {
            **cell.config,
            "labels": dict(cell.labels),
            "control": cell.control,
            "controls": list(cell.controls),
            "decoding_digest": cell.decoding.digest,
            "metrics": metrics,
            "data": digests[id(cell.task)],
            "model_digest": cell.model.digest,
            **({"model_revision": revision} if (revision := cell.model.model_revision) else {}),
        }
        has_own_code = registered_traits(cell.config["decoding"]["strategy"]) is None
        if has_own_code and is_control_of_greedy(cell.decoding, cell.answer_mode, cell.shots):
            content[EQUIVALENT] = True
        content = json_round_trip(content)
        yield cell, content | {DECIDED_BY: equivalence_digest(content)}


def describe_metrics(grid: Grid) -> dict[str, Any]:
    """The canonical node of each metric, with its good direction (`better`), the flags of its class, and a revision.

    The digest of its code is the revision of a metric from outside the toolkit. A metric whose outputs can be unread
    also has the revision of the reader.
    """
    from icl.metrics import READER_REVISION, SCORING_REVISION

    nodes: dict[str, Any] = {}
    for name, metric in grid.metrics.items():
        nodes[name] = {**describe(metric), "better": metric.better}
        if hasattr(metric, "run_level"):
            nodes[name]["run_level"] = True
        if is_builtin(type(metric)):
            nodes[name]["revision"] = SCORING_REVISION
        elif getattr(metric, "accuracy", False):  # the name of a built-in metric implies it
            nodes[name]["accuracy"] = True
        if getattr(metric, "reads_answers", False):
            nodes[name]["reader"] = READER_REVISION
    return nodes


def dropped_cells_note(store: Store) -> str:
    """A line on the cells with samples that the config no longer has, or '' if there are none."""
    present = (store.read_run() or {}).get("cells", [])
    folders = sorted(path.parent.name for path in store.folder.glob("cells/*/cell.json"))
    old = [digest for digest in folders if digest not in set(present) and _has_samples(store, digest)]
    if not old:
        return ""
    had, has = (
        [(store.read_intact_cell(digest) or {}).get("labels", {}) for digest in digests] for digests in (old, present)
    )
    free = DEMONSTRATION_AXES if {labels.get("shots") for labels in has} == {0} else ()  # they vanish with the shots
    gone = {
        axis: {str(labels.get(axis)) for labels in had} - {str(labels.get(axis)) for labels in has}
        for axis in had[0]
        if axis not in free
    }
    values = "; ".join(f"{axis} {', '.join(sorted(gone[axis]))}" for axis in gone if gone[axis])
    one = len(old) == 1
    cells = "1 cell" if one else f"{len(old):,} cells"
    return (
        f"{cells} of {store.folder} with samples {'is' if one else 'are'} not in this grid any more"
        f"{f' ({values})' if values else ''}: stored, but in no table. Put {'its' if one else 'their'} values back "
        f"into the grid to see {'it' if one else 'them'}; nothing is computed again."
    )


def next_free_folder(folder: Path) -> Path:
    """The first free name after this one: contrast-2, contrast-3, ..."""
    if not folder.exists():
        return folder
    return next(p for n in count(2) if not (p := folder.with_name(f"{folder.name}-{n}")).exists())


def _check_shared(store: Store, grid: Grid) -> None:
    info = store.read_run()
    if info is None:  # a new run, or one that was killed before it wrote run.json
        cells = sorted({path.parent.name for path in store.folder.glob("cells/*/*.json*")})
        others = {path.name for path in store.folder.glob("[!.]*")} - {"cells", "looks"}
        if not cells and others:
            raise StoreError(f"{store.folder} is not a run directory and is not empty. Use another name.")
        info = {"cells": cells}
    refuse_imported(store.folder, info)
    own, before = {cell.digest for cell in grid.cells}, info.get("cells", [])
    if any(digest in own and _has_samples(store, digest) for digest in before):
        return
    old = [digest for digest in before if _has_samples(store, digest)]
    if not old:
        return
    differs = _differences(store, old, grid)
    raise StoreError(f"{store.folder} was made with another config ({differs}). {REMEDY}")


def _has_samples(store: Store, digest: str) -> bool:
    return any(path.stat().st_size for path in store.cell_folder(digest).glob("*.jsonl"))


def _differences(store: Store, old: Sequence[str], grid: Grid) -> str:
    """The axes on which no value is the same, by their labels, else by parameters or code."""
    before = [store.read_intact_cell(digest) or {} for digest in old]
    parts = []
    for axis in grid.cells[0].labels:
        had = list(dict.fromkeys(str(cell.get("labels", {}).get(axis)) for cell in before))
        has = list(dict.fromkeys(str(cell.labels[axis]) for cell in grid.cells))
        if not set(had) & set(has):
            parts.append(f"{axis} {', '.join(had)}, now {', '.join(has)}")
        elif not {_canonical(cell.get(axis)) for cell in before} & {
            _canonical(cell.config[axis]) for cell in grid.cells
        }:
            parts.append(f"{axis} {', '.join(has)} with other parameters or code")
    stop_strings = [list(cell.stop_strings) for cell in grid.cells]
    if not parts and not any(cell.get("stop_strings", []) in stop_strings for cell in before):
        parts.append(f"stop_strings {stop_strings[0]}")
    if not parts and not {cell.get("model_digest") for cell in before} & {cell.model.digest for cell in grid.cells}:
        gone = {str(cell.get("model_revision", "")) for cell in before} - {
            one.model.model_revision for one in grid.cells
        }
        moved = f" from {' and '.join(sorted(gone))}, which `revision` of the model can name" if any(gone) else ""
        parts.append(f"the model's weights or settings have changed{moved}")
    return "; ".join(parts) or "no combination is the same"


def _canonical(value: Any) -> str:
    return json.dumps(json_round_trip(value), sort_keys=True)


def _check_data(store: Store, cell: Cell, had: Mapping[str, str], has: Mapping[str, str]) -> None:
    for key, what in (("pool", "demonstrations"), ("queries", "queries")):
        if had.get(key) is not None and had[key] != has[key]:
            raise StoreError(
                f"{store.folder} was made with other {what} of task '{cell.task.title}' ({key} digest {had[key][:4]}… "
                f"now {has[key][:4]}…). {REMEDY}"
            )


def json_round_trip(value: Any) -> Any:
    """The value as JSON would read it back."""
    return json.loads(json.dumps(value, default=repr))


FINISHED_FILE = ".finished.json"


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
            write_bytes(store.folder / FINISHED_FILE, _adapter().dump_json(index))
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
    return pydantic.TypeAdapter(dict[str, CellState])


def _read(store: Store) -> dict[str, CellState]:
    with suppress(OSError, ValueError):
        index: dict[str, CellState] = _adapter().validate_json((store.folder / FINISHED_FILE).read_bytes())
        return index
    return {}


EQUIVALENT = "equivalent_to_greedy"
"""The key of cell.json that is true for a control of a strategy with code of its own, if it answers as greedy does."""
DECIDED_BY = "decided_by"
"""The key of cell.json with its `equivalence_digest`; older runs lack it."""
DECIDES = ("seed", "model_digest", *AXES)


def equivalence_digest(cell: Mapping[str, Any]) -> str:
    """The digest (16 hex) of what decides the answers of a cell, given its cell.json; '' if that is incomplete.

    Cells with equal digests have equal answers with every model. It covers the cell's description without what cannot
    matter: the sampler if options are scored, the normalization if answers are generated, and the order of a
    single demonstration. A decoding that is equivalent to greedy (`decoding.arms.equivalence`) counts as greedy;
    cell.json says so of a control of a class that only the run itself has imported (EQUIVALENT). The digest depends on
    the description alone, never on answers: arms that happen to give equal answers are still tested.
    """
    arm, score, shots = cell.get("decoding"), str(cell.get("answer_mode")), cell.get("shots")
    if not isinstance(arm, Mapping) or not isinstance(shots, int):
        return ""
    parts = {key: cell.get(key) for key in DECIDES}
    if "stop_strings" in cell:
        parts["stop_strings"] = cell["stop_strings"]
    modes = [score, "generate"] if cell.get("max_thinking_tokens") is not None else [score]
    parts["decoding"] = _arm(arm, modes, shots, cell.get(EQUIVALENT) is True)
    if shots * _demonstrations(arm) <= 1 and ":" not in str((cell.get("order") or {}).get("name")):
        parts["order"] = None
    return canonical_digest(parts, ascii_only=False, compact=True, default=repr)[:16]


def _arm(arm: Mapping[str, Any], modes: Sequence[str], shots: int, is_recorded: bool) -> dict[str, Any]:
    """The description of an arm without what cannot matter.

    modes: 'generate', 'options', or both if options are scored after reasoning.
    """
    unread = [*("normalize",) * ("options" not in modes), *("sampler", "logits_processors") * ("generate" not in modes)]
    node = {key: value for key, value in arm.items() if key not in unread}
    if not is_recorded and not all(is_equivalent_to_greedy(arm, mode, shots) for mode in modes):
        return node
    return {key: value for key, value in node.items() if key != "acts_in"} | {"strategy": GREEDY}


def _demonstrations(arm: Mapping[str, Any]) -> int:
    """The number of demonstrations in its prompts per shot; 2 if the strategy is not registered."""
    traits = registered_traits(arm.get("strategy"))
    return 2 if traits is None else traits.demonstration_factor
