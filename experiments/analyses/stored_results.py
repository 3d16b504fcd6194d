"""Results of analyses in a run directory. `icl analyze` writes them, and the report shows them without computing any.

    RUN/analyses/<name>-<digest of name and options>.json

A result has the table of the analysis with its title, note, figure and images, the docstring of its module, and its
basis: the digests of the run's cells, the checksums of their samples, and the config's `compare`. If one of these has
changed, the result no longer fits the run, and `StoredResult.outdated` says why.
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import icl
from experiments import Store
from experiments.stats import format_count, join_words
from experiments.store import Scalar, check_shape, read_mapping, refuse_links, write_json
from icl import ConfigError, DataFrame, StoreError, canonical_digest, pd

FOLDER = "analyses"
FORMAT = 1
ATTRIBUTES = ("title", "note", "signed", "heads", "figure", "by", "images")
"""The keys of a table's `attrs` that are stored."""
REMEDY = "Delete the file and compute the analysis again."


@dataclass(frozen=True)
class AnalysisOptions:
    """An analysis with the options of its command.

    Attributes:
        name: A name, or the path of a function.
        metric: The metric; '' for the config's metric.
        to: The reference arm, as `axis=label`; empty for the config's reference.
        by: Columns of the data; each of their values is analyzed.
        queries: The number of queries of each cell that a model reads; None for the default.
        parameters: The analysis's own parameters, as `key=value`.
    """

    name: str
    metric: str = ""
    to: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    queries: int | None = None
    parameters: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line, with RUN for the run directory."""
        words = ["icl", "analyze", "RUN", self.name, *self.parameters]
        words += ["--metric", self.metric] if self.metric else []
        words += [word for setting in self.to for word in ("--to", setting)]
        words += [word for column in self.by for word in ("--by", column)]
        words += [] if self.queries is None else ["--queries", str(self.queries)]
        return shlex.join(words)

    @property
    def file(self) -> str:
        """The name of the file. Of a path it has the last part alone, because folders may have the name of a user."""
        last = re.split(r"[/\\]", self.name)[-1]
        words = "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in last).split())
        options = {key: value for key, value in asdict(self).items() if value or key != "parameters"}
        return f"{words[-60:]}-{canonical_digest(options)[:8]}.json"


@dataclass(frozen=True)
class Basis:
    """What a result was computed from.

    Attributes:
        cells: The checksum of the samples of each cell.
        compare: The digest of the config's `compare`.
    """

    cells: Mapping[str, str]
    compare: str

    def outdated_by(self, now: "Basis") -> str:
        """What has changed since, in words; '' if nothing has."""
        added, removed = len(now.cells.keys() - self.cells.keys()), len(self.cells.keys() - now.cells.keys())
        changed = sum(now.cells[cell] != self.cells[cell] for cell in now.cells.keys() & self.cells.keys())
        parts = [
            f"{format_count(count, 'cell')} {'was' if count == 1 else 'were'} {what}"
            for count, what in ((added, "added"), (removed, "removed"))
            if count
        ]
        parts += [f"samples of {format_count(changed, 'cell')} changed"] if changed else []
        parts += ["the config's `compare` changed"] if self.compare != now.compare else []
        return join_words(parts) if parts else ""


@dataclass(frozen=True, eq=False)
class StoredResult:
    """A result that was read back.

    Attributes:
        table: The table, with the `attrs` of the analysis.
        doc: The docstring of the analysis, which defines its columns.
        version: The version of mm-icl that computed it.
        outdated: What has changed in the run since, in words; '' if the result fits.
    """

    options: AnalysisOptions
    table: DataFrame
    doc: str
    version: str
    outdated: str


class _ImageCell(BaseModel):
    """An image of the figure, in a row of a panel. png: the image itself, so that a page loads nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")

    panel: str
    row: str
    label: str
    png: str = Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+=*$")


class _Attributes(BaseModel):
    model_config = ConfigDict(strict=True)

    title: str = ""
    note: str = ""
    signed: list[str] = []
    heads: dict[str, str] = {}
    figure: dict[str, Any] | None = None
    by: list[str] = []
    images: list[_ImageCell] = []


class _Result(BaseModel):
    """The shape of a file."""

    model_config = ConfigDict(strict=True)

    options: AnalysisOptions
    basis: Basis
    version: str
    doc: str
    attributes: _Attributes
    columns: list[str]
    rows: list[list[Scalar]]

    @model_validator(mode="after")
    def _check_rows(self) -> "_Result":
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row has more or fewer values than there are columns")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("two columns have one name")
        return self


def read_basis(run: Path) -> Basis:
    """What a result would be computed from now. Take it before the samples are read: a running run appends more."""
    store = Store(run)
    info = store.read_run() or {}
    cells = {digest: canonical_digest(store.checksums(digest)) for digest in map(str, info.get("cells", ()))}
    return Basis(cells, canonical_digest((info.get("config") or {}).get("compare")))


def analysis_doc(analyze: Callable[..., Any]) -> str:
    """The docstring of an analysis's module, else of its function."""
    module = sys.modules.get(analyze.__module__)
    return ((module.__doc__ if module else "") or analyze.__doc__ or "").strip()


def store_result(run: Path, options: AnalysisOptions, basis: Basis, table: DataFrame, doc: str) -> Path:
    """Writes a result in place of an earlier one with the same options.

    Args:
        run: The run directory.
        options: The analysis and its options.
        basis: That of `read_basis`, before the samples were read.
        table: The table of the analysis.
        doc: Its docstring.

    Returns:
        The file.

    Raises:
        StoreError: The file cannot be written, or is a link.
        ConfigError: The `attrs` of the table have other types.
    """
    refuse_links(run)
    path = run / FOLDER / options.file
    attributes = {name: table.attrs[name] for name in ATTRIBUTES if name in table.attrs}
    content = {
        "format": FORMAT,
        "options": asdict(options),
        "basis": asdict(basis),
        "version": icl.__version__,
        "doc": doc,
        "attributes": _plain(attributes),
        "columns": [str(column) for column in table],
        "rows": [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)],
    }
    try:
        _Result.model_validate({**content, "options": options, "basis": basis})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])).replace("attributes", "attrs", 1)
        raise ConfigError(
            f"analysis '{options.name}': {place} of its table cannot be {first['input']!r:.60} ({first['msg']})."
        ) from error
    write_json(path, content)
    return path


def read_results(run: Path) -> tuple[list[StoredResult], list[str]]:
    """The results of a run in the order of their files, and a sentence about each file that cannot be read."""
    results, refusals = [], []
    if not (files := _files(run)):
        return [], []
    now = read_basis(run)
    for path in files:
        try:
            results.append(_stored_result(_read(path), now))
        except StoreError as error:
            refusals.append(str(error))
    return results, refusals


def copy_results(run: Path, copy: Path, change: Callable[[Any], Any]) -> None:
    """Copies the results that fit a run to a copy of it that is otherwise complete.

    Args:
        run: The run directory.
        copy: The directory of the copy.
        change: What the copy changes in JSON values, such as paths. The results fit the copy as it is.
    """
    if not (files := _files(run)):
        return
    basis, basis_of_copy = read_basis(run), asdict(read_basis(copy))
    for path in files:
        result = _read(path)
        if not result.basis.outdated_by(basis):
            content = {"format": FORMAT, **change(_plain(result.model_dump())), "basis": basis_of_copy}
            write_json(copy / FOLDER / path.name, content)


def _files(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("*.json"))


def _read(path: Path) -> _Result:
    content = read_mapping(path, REMEDY) or {}
    if (number := content.get("format")) != FORMAT:
        raise StoreError(f"{path} has format {number!r:.40}; this version reads format {FORMAT}. {REMEDY}")
    return check_shape(_Result, content, path, REMEDY)


def _stored_result(result: _Result, now: Basis) -> StoredResult:
    table = pd.DataFrame(result.rows, columns=result.columns)
    table.attrs |= result.attributes.model_dump()
    return StoredResult(result.options, table, result.doc, result.version, result.basis.outdated_by(now))


def _plain(value: Any) -> Any:
    """Lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _cell(value: Any) -> Scalar:
    """A value that JSON has: None for NaN."""
    plain = value.item() if hasattr(value, "dtype") and value.ndim == 0 else value
    if pd.api.types.is_scalar(plain) and pd.isna(plain):
        return None
    return plain if isinstance(plain, str | int | float) else str(plain)
