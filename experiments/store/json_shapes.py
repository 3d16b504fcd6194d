"""The shapes of run.json, cell.json, the files of looks and the lines of invocations.jsonl, checked when they are read.

A file that was edited by hand, or that a newer version wrote, then raises an error that names the file and the key.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from icl.errors import DamagedFileError

MAX_SHOTS = 1_000_000
MAX_EXCERPT = 60
"""Characters of a value or of a key that a message shows."""

Number = int | float
Scalar = str | int | float | bool | None
Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Time = Annotated[str, AfterValidator(lambda text: datetime.fromisoformat(text) and text)]


class _Shape(BaseModel):
    """A mapping whose other keys may have any values."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Metric(_Shape):
    name: str | None = None
    better: str | None = None
    run_level: bool = False
    accuracy: bool = False


class _Compare(_Shape):
    to: dict[str, Any] | None = None
    metric: str | None = None
    correction: str | None = None


class _ConfigNode(_Shape):
    compare: _Compare | None = None


class _Session(_Shape):
    start: Time | None = None
    end: Time | None = None
    state: str = ""
    counters: dict[str, Number] = {}
    arms: dict[str, dict[str, int]] = {}


class RunShape(_Shape):
    """The shape of run.json."""

    name: str = ""
    file: str = ""
    folder: str = ""
    config: _ConfigNode | None = None
    cells: list[Digest] = []
    sizes: list[int] | None = None
    metrics: dict[str, _Metric] = {}
    sessions: list[_Session] = []


class _Decoding(_Shape):
    strategy: str | dict[str, Any] | None = None
    sampler: str | dict[str, Any] | None = None


class _Labels(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Scalar]

    shots: Annotated[int, Ge(0), Le(MAX_SHOTS)]


class CellShape(_Shape):
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


class _ClosedShape(_Shape):
    """A mapping without other keys."""

    model_config = ConfigDict(extra="forbid")


class _Stop(_ClosedShape):
    level: Number
    looks: int | None
    spend: Number
    futility: Number | None
    margin: Number | None
    null: str
    seed: int


class _PlannedComparison(_ClosedShape):
    task: str
    arm: list[Digest]
    reference: list[Digest]
    name: str
    against: str
    cells: list[Digest]
    axes: dict[str, Any]


class PlanShape(_Shape):
    """The shape of looks/family-<n>/plan.json."""

    stop: _Stop
    looks: Annotated[int, Ge(1)]
    metric: str
    metric_node: dict[str, Any]
    seeds: Annotated[int, Ge(1)]
    comparisons: list[_PlannedComparison]
    untested: dict[str, list[Digest]]
    clusters: dict[str, list[Annotated[list[str], MinLen(2)]]]


class _LookResult(_ClosedShape):
    clusters: int
    time: Number
    p: Number
    side: int
    z: Number | None
    difference: Number | None
    low: Number | None = None
    high: Number | None = None
    is_equal: bool = False
    pairs: int = 0


class _LookEntry(_Shape):
    pairs_digest: str
    end: Literal["running", "decided", "equal", "open"]
    chance: Number | None
    clusters: int = 0
    sums: list[Number] = []
    pairs: list[int] = []
    dropped: list[Annotated[list[str | int], MinLen(2)]] = []
    result: _LookResult | None = None


class LookShape(_Shape):
    """The shape of looks/family-<n>/look-<k>.json."""

    comparisons: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], _LookEntry]


class _Commit(_Shape):
    commit: str
    dirty: str = ""


class InvocationShape(_Shape):
    """The shape of a line of invocations.jsonl."""

    id: Annotated[int, Ge(1)]
    start: Time | None = None
    versions: dict[str, str] = {}
    devices: list[str] = []
    driver: str | None = None
    git: dict[str, _Commit | None] = {}


def check_shape(
    shape: type[BaseModel],
    content: Mapping[str, Any],
    path: Path | str,
    remedy: str = "Restore the file from a copy, or run the config again under another name.",
) -> None:
    """Check the content of a file.

    Raises:
        DamagedFileError: A value has another type. The message names the file, the key and the remedy.
    """
    try:
        shape.model_validate(content)
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
