"""The shapes of run.json, cell.json and the lines of invocations.jsonl, checked when they are read.

A file that was edited by hand, or that a newer version wrote, then raises an error that names the file and the key.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from icl import DamagedFileError, StoreError

# The marks of a run whose samples come from logs of another harness, or from other runs (`experiments.imports`).


IMPORTED = "imported"
"""The key of run.json (the harnesses) and of cell.json (`from`, `version`, `model_args` and `date` of the log)."""


MERGED = "merged"
"""The key of run.json with the runs that were merged: `run` (a relative path) and `bytes` (of the files of samples)."""


def files_size(folder: Path) -> int:
    """The size of the samples of a run directory in bytes. It grows with each sample."""
    return sum(path.stat().st_size for path in folder.glob("cells/*/*.jsonl"))


def changed_since_merge(folder: Path, info: Mapping[str, Any]) -> str:
    """A sentence if a run has changed since it was merged into the folder, else ''. A run that is gone has not."""
    changed = [
        str(path.resolve())
        for merged in info.get(MERGED, ())
        if (path := folder / merged["run"]).is_dir() and files_size(path) != merged["bytes"]
    ]
    if not changed:
        return ""
    return f"{', '.join(changed)} changed since the merge. Run `icl import` again to read the new samples."


def refuse_imported(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises StoreError if the content of run.json says that the run was imported or merged.

    Args:
        folder: The run directory.
        info: The content of its run.json.
    """
    if IMPORTED in info:
        raise StoreError(
            f"{folder} was imported from logs of another harness (`icl import`): no config computes its samples. "
            "To run an experiment, use another name."
        )
    if MERGED in info:
        raise StoreError(
            f"{folder} was merged from other runs (`icl import`): no config computes its samples. Run one of those, or "
            "use another name."
        )


MAX_SHOTS = 1_000_000
MAX_EXCERPT = 60
"""Characters of a value or of a key that a message shows."""

S = TypeVar("S", bound=BaseModel)
Number = int | float
Scalar = str | int | float | bool | None
Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Time = Annotated[str, AfterValidator(lambda text: datetime.fromisoformat(text) and text)]


class Shape(BaseModel):
    """A mapping whose other keys may have any values."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Metric(Shape):
    name: str | None = None
    better: str | None = None
    run_level: bool = False
    accuracy: bool = False


class _Compare(Shape):
    to: dict[str, Any] | None = None
    metric: str | None = None
    correction: str | None = None


class _ConfigNode(Shape):
    compare: _Compare | None = None


class _Probe(Shape):
    date: str = ""
    url: str = ""
    model: str = ""
    open: dict[str, str] = {}


class _Session(Shape):
    start: Time | None = None
    end: Time | None = None
    state: str = ""
    counters: dict[str, Number] = {}
    arms: dict[str, dict[str, int]] = {}
    probes: dict[str, _Probe] = {}


class RunShape(Shape):
    """The shape of run.json."""

    name: str = ""
    file: str = ""
    folder: str = ""
    config: _ConfigNode | None = None
    cells: list[Digest] = []
    sizes: list[int] | None = None
    metrics: dict[str, _Metric] = {}
    accuracies: list[str] = []
    sessions: list[_Session] = []


class _Decoding(Shape):
    strategy: str | dict[str, Any] | None = None
    sampler: str | dict[str, Any] | None = None


class _Labels(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Scalar]

    shots: Annotated[int, Ge(0), Le(MAX_SHOTS)]


class CellShape(Shape):
    """The shape of cell.json."""

    seed: int | None = None
    labels: _Labels | None = None
    control: bool = False
    controls: list[str] = []
    decoding: _Decoding | None = None
    order: dict[str, Any] | None = None
    transforms: list[dict[str, Any]] | None = None
    metrics: dict[str, _Metric] = {}
    data: dict[str, str] = {}
    shots: int | None = None
    decided_by: str = ""


class _Commit(Shape):
    commit: str
    dirty: str = ""


class InvocationShape(Shape):
    """The shape of a line of invocations.jsonl."""

    id: Annotated[int, Ge(1)]
    start: Time | None = None
    versions: dict[str, str] = {}
    devices: list[str] = []
    driver: str | None = None
    git: dict[str, _Commit | None] = {}


def check_shape(
    shape: type[S],
    content: Mapping[str, Any],
    path: Path | str,
    remedy: str = "Restore the file from a copy, or run the config again under another name.",
) -> S:
    """The content of a file, with its types checked. Arrays may be tuples, and mappings dataclasses.

    Raises:
        DamagedFileError: A value has another type. The message names the file, the key and the remedy.
    """
    try:
        return shape.model_validate_json(json.dumps(content, ensure_ascii=False).encode(errors="replace"), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        key = ".".join(part if len(part) <= MAX_EXCERPT else f"{part[: MAX_EXCERPT - 1]}…" for part in parts)
        raise DamagedFileError(
            f"{path} is damaged, or another version wrote it: {key} cannot be {excerpt(first['input'])}. {remedy}"
        ) from error


def excerpt(value: Any) -> str:
    """The value as Python writes it, cut if it is long. A text that is cut has both of its quotes."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_EXCERPT - 2 else f"{value[: MAX_EXCERPT - 3]}…")
    text = repr(value)
    return text if len(text) <= MAX_EXCERPT else f"{text[: MAX_EXCERPT - 1]}…"
