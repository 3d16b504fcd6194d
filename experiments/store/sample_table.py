"""The samples of a run as columns, from a Parquet cache next to the JSON lines of each cell.

    cells/<digest>/.samples.parquet    a row per query, a column per field

The JSON lines are the source of truth. A cache contains the SHA-256 of the lines that it was made from. It is made
again if the lines have changed or if it is damaged. If it cannot be written, its bytes stay in memory.

Texts and numbers have columns of these types. Other fields have columns of JSON text. `scores` and `baselines` have a
column per metric (`column_path`).
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from experiments.store.store import LISTS, MAPPINGS, Store
from icl import StoreError, pa

FORMAT = 2
"""Increase it if the same lines give other columns or metadata."""
CACHE = ".samples.parquet"
FLAT = ("scores", "baselines")
"""Fields with columns of their own."""
SMALL = ("question", "gold", "options", "finish", "thinking", "unread")
"""Fields of few distinct values, which are read together."""
HELD_BYTES = 64 * 2**20
"""The bytes of caches that a table keeps in memory: they are opened once, and their rows stay if a file changes."""
CONSTANT = "cell"
"""The field that is the same in all samples of a cell, and has no column."""
_NESTED = frozenset({*LISTS, *MAPPINGS} - {*FLAT})
_SEPARATOR = "\x1f"
_JSON = {b"json": b"1"}
"""The metadata of a column of JSON text."""


def column_path(name: str) -> tuple[str, ...]:
    """('scores', 'strict') or ('baselines', 'vote', 'strict') of the column's name, ('output',) of a field's."""
    return tuple(name.split(_SEPARATOR))


class CellTable:
    """The samples of one cell as columns.

    Attributes:
        source: The file of the cache, or its bytes if the file cannot be written.
        queries: The query of each row.
        columns: The type of each column: 'string', 'int64', 'double' or 'json'.
        damaged: The places of lines that are not complete samples of the cell.
    """

    # seed: the seed in the cell's cell.json. room: the bytes that the cache may take in memory
    def __init__(self, store: Store, digest: str, seed: int | None, *, from_lines: bool = False, room: int = 0) -> None:
        self.store, self.digest, self.seed, self.room = store, digest, seed, room
        path = store.cell_folder(digest) / CACHE
        self.source: Path | pa.Buffer = path
        with suppress(OSError):
            if not from_lines and path.is_file() and path.stat().st_size <= room:
                self.source = pa.py_buffer(path.read_bytes())
        self.checksum = self._checksum(store.checksums(digest))
        try:
            self._load((None if from_lines else _open(self.source, self.checksum)) or self._write())
        except _read_errors():  # damage that the footer does not show
            self._load(self._write())

    def _load(self, file: "pa.parquet.ParquetFile") -> None:
        self.columns = _column_types(file.schema_arrow)
        self.damaged: list[str] = from_json(file.schema_arrow.metadata[b"damaged"])
        self.queries: pa.Array = _read(file, ["query"])["query"] if self.columns else None
        self.file = file if isinstance(self.source, pa.Buffer) else None

    def __len__(self) -> int:
        return len(self.queries) if self.columns else 0

    def read(self, names: Sequence[str]) -> "pa.Table":
        """The columns of these names, a row per query.

        Raises:
            StoreError: The samples of the cell have been replaced since this table was made.
        """
        with suppress(*_read_errors()):
            if file := self.file or _open(self.source, self.checksum):
                return _read(file, names)
        # Damaged, or written by another process after more samples: the rows of then are found by their queries.
        table = _to_table(self.store.lines(self.digest))
        rows = pa.compute.index_in(self.queries, table["query"]) if table.num_columns else None
        types = _column_types(table.schema)
        if rows is None or rows.null_count or any(types.get(name) != self.columns[name] for name in names):
            raise StoreError(f"{self.store.cell_folder(self.digest)} was changed while it was read. Try again.")
        return table.select(names).take(rows)

    def _checksum(self, checksums: Mapping[str, str]) -> str:
        """What a cache is made from: the format, the lines, and what decides which lines are of the cell."""
        return json.dumps([FORMAT, self.digest, self.seed, *sorted(checksums.items())])

    def _write(self) -> "pa.parquet.ParquetFile":
        """Makes the cache of the present lines."""
        checksums, damaged = dict[str, str](), list[str]()
        table = _to_table(self.store.lines(self.digest, damaged, checksums))
        self.checksum = self._checksum(checksums)
        table = table.replace_schema_metadata({b"checksum": self.checksum.encode(), b"damaged": to_json(damaged)})
        buffer = pa.BufferOutputStream()
        pa.parquet.write_table(
            table, buffer, compression="zstd", write_statistics=False, write_page_checksum=True, store_schema=True
        )
        data = buffer.getvalue()
        path = self.store.cell_folder(self.digest) / CACHE
        self.source = data if data.size <= self.room else path
        part = path.with_name(f"{CACHE}.{os.getpid()}.part")
        try:
            part.unlink(missing_ok=True)  # a link would lead to another file
            part.write_bytes(data)
            part.replace(path)
        except OSError:
            self.source = data
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return pa.parquet.ParquetFile(pa.BufferReader(data))


class SampleTable:
    """The samples of several cells as one table. A column is read when its values are used.

    Args:
        store: The run directory.
        digests: The cells.
        cells: The content of their cell.json, if it has been read.
        from_lines: Whether every cache is made again. Its writer decides what a cache has, and not the lines.

    Attributes:
        damaged: The places of lines that are not complete samples of their cells.
    """

    def __init__(
        self,
        store: Store,
        digests: Sequence[str],
        descriptions: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        from_lines: bool = False,
    ) -> None:
        self.cells: list[CellTable] = []
        room = HELD_BYTES
        for digest in digests:
            seed = ((descriptions or {}).get(digest) or store.read_cell(digest) or {}).get("seed")
            self.cells.append(cell := CellTable(store, digest, seed, from_lines=from_lines, room=room))
            room -= 0 if isinstance(cell.source, Path) else cell.source.size
        self.starts = np.cumsum([0, *map(len, self.cells)])
        self.damaged = [place for cell in self.cells for place in cell.damaged]
        self.columns: dict[str, str] = {}
        for cell in self.cells:
            for name, kind in cell.columns.items():
                self.columns[name] = _common_type(self.columns.get(name, kind), kind)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def cell_numbers(self) -> NDArray[np.intp]:
        """[rows]: the number of each row's cell among `digests`."""
        return np.repeat(np.arange(len(self.cells)), np.diff(self.starts))

    def read(self, names: Sequence[str], rows: NDArray[np.intp] | None = None) -> "pa.Table":
        """Columns as they are stored: JSON text is not decoded.

        Args:
            names: The columns.
            rows: The rows, in any order. By default all rows.
        """
        schema = pa.schema([(name, _arrow_type(self.columns[name])) for name in names])
        if rows is None:
            return pa.concat_tables([schema.empty_table(), *(self._of_cell(i, schema) for i in range(len(self.cells)))])
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        tables = [schema.empty_table()]
        ends = np.flatnonzero(np.diff(numbers[order])) + 1
        for part in np.split(order, ends) if len(order) else ():
            number = int(numbers[part[0]])
            tables.append(self._of_cell(number, schema).take(pa.array(rows[part] - self.starts[number])))
        table = pa.concat_tables(tables)
        return table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(np.argsort(order)))

    def values(self, names: Sequence[str], rows: NDArray[np.intp], shared: bool = True) -> dict[str, list[Any]]:
        """The decoded values of columns in these rows. NaN stands for a missing value and for the row -1.

        Args:
            names: The columns.
            rows: The rows, in any order.
            shared: Whether equal values may be one object.
        """
        valid = rows >= 0
        own = rows if valid.all() else rows[valid]
        others = [name for name in names if not shared or name not in SMALL]
        small = [name for name in names if name not in others]
        tables = [self.read(others, own)] if others else []
        tables += [self.small.select(small).take(pa.array(own))] if small else []
        read = {name: table[name].combine_chunks() for table in tables for name in table.column_names}
        columns = {name: _decode(read[name], self.columns[name], shared) for name in names}
        if valid.all():
            return columns
        places = np.cumsum(valid) - 1
        return {
            name: [values[place] if is_valid else np.nan for place, is_valid in zip(places, valid, strict=True)]
            for name, values in columns.items()
        }

    @cached_property
    def small(self) -> "pa.Table":
        """The columns that many statistics read, in one pass over the files. Each value is in memory once."""
        table = self.read([name for name in SMALL if name in self.columns])
        columns = [column.combine_chunks().dictionary_encode() for column in table.columns]
        return pa.table(columns, names=table.column_names)

    def _of_cell(self, number: int, schema: "pa.Schema") -> "pa.Table":
        """The columns of the schema in one cell, of the types that they have in the whole table."""
        cell = self.cells[number]
        present = [name for name in schema.names if name in cell.columns]
        table = cell.read(present) if present else None
        columns = []
        for name, type_ in zip(schema.names, schema.types, strict=True):
            if table is None or name not in cell.columns:
                columns.append(pa.nulls(len(cell), type_))
            elif self.columns[name] == "json" != cell.columns[name]:
                columns.append(pa.array([None if v is None else to_json(v) for v in table[name].to_pylist()], type_))
            else:
                columns.append(table[name].cast(type_))
        return pa.table(columns, schema=schema)


def _decode(array: "pa.Array", kind: str, shared: bool) -> list[Any]:
    """The values of a column, NaN where one is missing."""
    if kind != "json":
        return [np.nan if value is None else value for value in array.to_pylist()]
    if not shared:
        values: list[Any] = from_json(f"[{','.join(array.fill_null('NaN').to_pylist())}]")
        return values
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    uniques = [from_json(text) for text in encoded.dictionary.to_pylist()]
    return [np.nan if code is None else uniques[code] for code in encoded.indices.to_pylist()]


def _column_types(schema: "pa.Schema") -> dict[str, str]:
    """The type of each column; 'json' for JSON text."""
    return {field.name: "json" if field.metadata == _JSON else str(field.type) for field in schema}


def _common_type(one: str, other: str) -> str:
    if one == other:
        return one
    return "double" if {one, other} == {"int64", "double"} else "json"


def _arrow_type(kind: str) -> "pa.DataType":
    return pa.large_string() if kind == "json" else pa.type_for_alias(kind)


def _read_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    return OSError, ValueError, KeyError, MemoryError, pa.ArrowException


def _open(source: "Path | pa.Buffer", checksum: str) -> "pa.parquet.ParquetFile | None":
    """The cache, or None if there is none, if it is damaged or if it was made from other lines."""
    if isinstance(source, Path) and not source.is_file():
        return None
    try:
        opened = pa.BufferReader(source) if isinstance(source, pa.Buffer) else source
        file = pa.parquet.ParquetFile(opened, page_checksum_verification=True)
        return file if (file.schema_arrow.metadata or {}).get(b"checksum") == checksum.encode() else None
    except _read_errors():
        return None


def _read(file: "pa.parquet.ParquetFile", names: Sequence[str]) -> "pa.Table":
    return file.read(columns=list(names), use_threads=False)


def _fields(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(column, value) of a line: the value of a list or mapping as JSON text."""
    for name, value in line.items():
        if name in _NESTED:
            yield name, to_json(value)
        elif name not in FLAT:
            yield name, value
        else:
            for key, scores in value.items():
                if isinstance(scores, dict):
                    for metric, score in scores.items():
                        yield f"{name}{_SEPARATOR}{key}{_SEPARATOR}{metric}", score
                else:
                    yield f"{name}{_SEPARATOR}{key}", scores


def _to_table(lines: Iterable[Mapping[str, Any]]) -> "pa.Table":
    """A row per query, a column per field in the order of first appearance.

    As in `Store.samples`, the first line of a query counts, and a later one if that one failed.
    """
    columns: dict[str, list[Any]] = {}
    rows: dict[str, int] = {}
    failed: set[str] = set()
    count = 0
    for line in lines:
        query = line["query"]
        if query in rows and query not in failed:
            continue
        rows[query] = count
        (failed.add if line.get("failed") else failed.discard)(query)
        for name, value in _fields(line):
            if (column := columns.get(name)) is None:
                column = columns[name] = []
            if len(column) < count:
                column.extend([None] * (count - len(column)))
            column.append(value)
        count += 1
    columns.pop(CONSTANT, None)
    arrays, schema = [], []
    for name, values in columns.items():
        values.extend([None] * (count - len(values)))
        if len(rows) < count:
            values = [values[row] for row in rows.values()]  # noqa: PLW2901
        array, is_json = _to_array(name, values)
        arrays.append(array)
        schema.append(pa.field(name, array.type, metadata=_JSON if is_json else None))
    return pa.table(arrays, schema=pa.schema(schema))


def _to_array(name: str, values: list[Any]) -> "tuple[pa.Array, bool]":
    """The values as an array, and whether they are JSON text."""
    if name in _NESTED:
        return pa.array(values, pa.large_string()), True
    types = {type(value) for value in values if value is not None}
    for allowed, type_ in (({str}, pa.large_string()), ({int}, pa.int64()), ({int, float}, pa.float64())):
        if types <= allowed:
            with suppress(OverflowError, UnicodeEncodeError, pa.ArrowException):  # a huge number, half a surrogate pair
                return pa.array(values, type_), False
    return pa.array([None if value is None else to_json(value) for value in values], pa.large_string()), True
