"""The files of a run directory. They are the state of the run: only missing samples are computed.

    run.json                        resolved config, the digests of its cells, sessions and cost
    invocations.jsonl               a line per process that computed samples: versions, devices, commit, machine
    cells/<digest>/cell.json        one resolved cell, and digests of its queries and demonstrations
    cells/<digest>/<worker>.jsonl   one line per sample, appended and flushed when the sample is finished
    images/<digest>.png             images for the report
    analyses/<name>-<digest>.json   results of `icl analyze` for the report

A line counts if it is complete and belongs to its cell. If a process was killed, its last partial line is cut off
before the next line is written. Other damaged lines are skipped and reported, and their samples are computed again.
A cell.json or an image that is missing or damaged is written again by the same command, and finished samples count.
A query counts once. If its first line is a failure, a later line of the query replaces it.

run.json and each cell.json have the number of the format. Files of another format are refused.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from icl import DamagedFileError, DataFrame, Sample, ScoredSample, StoreError, parse_json

OPEN_FILES = 128
ROUNDING = 1e-6
"""The tolerance of scores outside [0, 1], for sums of floats."""
LISTS = ("demos", "ranks", "gold", "options", "images", "image_of", "gold_before_after", "marks", "unread")
MAPPINGS = ("scores", "baselines", "option_scores", "trace", "steps", "usage", "meta")
NUMBERS = ("seed", "dropped", "masked", "invocation", "scores_invocation")
"""The fields of a sample that are lists, mappings and integers. The others are texts."""
TEXT_LISTS = ("gold", "options", "images", "gold_before_after", "marks", "unread")
REQUIRED = frozenset({"cell", "query", "seed"})
_FIELDS = tuple(f.name for f in fields(Sample))
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each sample
_TYPES: dict[str, type] = dict.fromkeys(_FIELDS, str) | {
    **dict.fromkeys(LISTS, list),
    **dict.fromkeys(MAPPINGS, dict),
    **dict.fromkeys(NUMBERS, int),
}

WRITTEN = ("report.html", "tables", "figures", "card.json", "card.md", "analyses")
"""Files and folders of a run directory that commands which read a run write."""
FORMAT = 2
"""The format of the files. Increase it if earlier versions cannot read what this one writes, or the reverse."""
CELL_REMEDY = "Run the same command again: it writes the file from the config, and keeps finished samples."


@dataclass(frozen=True)
class Store:
    """The files of one run directory. Reading needs no lock; writing needs `experiments.store.lock`."""

    folder: Path

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    def read_run(self) -> dict[str, Any] | None:
        """The content of run.json, or None if there is no such file.

        Raises:
            StoreError: The file is damaged, or has another format.
        """
        content = _read_formatted(self.run_file, "Remove it and run the same command: finished samples are kept.")
        if content is not None:
            from experiments.store.json_shapes import RunShape, check_shape

            check_shape(RunShape, content, self.run_file)
        return content

    def write_run(self, info: Mapping[str, Any]) -> None:
        write_json(self.run_file, {"format": FORMAT, **info})

    def cell_folder(self, digest: str) -> Path:
        return self.folder / "cells" / digest

    def read_cell(self, digest: str) -> dict[str, Any] | None:
        """The description of a cell, or None if it is not stored.

        Raises:
            StoreError: The file is damaged, or has another format.
        """
        path = self.cell_folder(digest) / "cell.json"
        content = _read_formatted(path, CELL_REMEDY)
        if content is not None:
            from experiments.store.json_shapes import CellShape, check_shape

            check_shape(CellShape, content, path, CELL_REMEDY)
        return content

    def read_intact_cell(self, digest: str) -> dict[str, Any] | None:
        """The description of a cell, or None if it is missing or damaged: its config can write it again.

        Raises:
            StoreError: The file has another format.
        """
        try:
            return self.read_cell(digest)
        except DamagedFileError:
            return None

    def write_cell(self, digest: str, description: Mapping[str, Any]) -> None:
        write_json(self.cell_folder(digest) / "cell.json", {"format": FORMAT, **description})

    def samples(self, digest: str, damaged: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The samples of a cell, each query once, as JSON mappings without their empty fields.

        Args:
            digest: The cell.
            damaged: Receives the places of skipped lines, except for a partial last line.
        """
        by_query: dict[str, dict[str, Any]] = {}
        for line in self.lines(digest, damaged):
            earlier = by_query.get(line["query"])
            if earlier is None or earlier.get("failed"):
                by_query[line["query"]] = line
        yield from by_query.values()

    def finished_and_failed(
        self, digest: str, damaged: list[str] | None = None, images: dict[str, tuple[str, str]] | None = None
    ) -> tuple[set[str], dict[str, str]]:
        """The ids of finished queries, and the reasons of failed ones by query.

        Args:
            digest: The cell.
            damaged: Receives the places of skipped lines, except for a partial last line.
            images: Receives cell and query of a sample for each digest of an image in a prompt.
        """
        finished: set[str] = set()
        failed: dict[str, str] = {}
        for line in self.lines(digest, damaged):
            if line.get("failed"):
                failed[line["query"]] = line["failed"]
            else:
                finished.add(line["query"])
            if images is not None:
                for image in line.get("images", ()):
                    images.setdefault(image, (digest, line["query"]))
        return finished, {query: why for query, why in failed.items() if query not in finished}

    def replace_samples(self, digest: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Replaces all lines of a cell in one step, after new metrics were computed on stored answers."""
        folder = self.cell_folder(digest)
        text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        _write(folder / "0.jsonl", text.encode())
        for path in folder.glob("*.jsonl"):
            if path.name != "0.jsonl":
                path.unlink()

    def lines(
        self, digest: str, damaged: list[str] | None = None, checksums: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The valid lines of a cell. A query may have several lines.

        Args:
            digest: The cell.
            damaged: Receives the places of skipped lines.
            checksums: Receives the SHA-256 of each file, as `checksums` returns it.
        """
        seed = (self.read_intact_cell(digest) or {}).get("seed")
        for path in self._files(digest):
            checksum = hashlib.sha256()
            with _report_read_errors(path), path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if checksums is not None:
                        checksum.update(raw)
                    line = parse_line(raw)
                    if line is not None and line["cell"] == digest and seed in (None, line["seed"]):
                        yield line
                    elif damaged is not None and raw.endswith(b"\n"):
                        damaged.append(f"line {number} of {path}")
            if checksums is not None:
                checksums[path.name] = checksum.hexdigest()

    def checksums(self, digest: str) -> dict[str, str]:
        """The SHA-256 of each file of a cell's samples, by the file's name."""
        checksums: dict[str, str] = {}
        for path in self._files(digest):
            with _report_read_errors(path), path.open("rb") as file:
                checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return checksums

    def _files(self, digest: str) -> list[Path]:
        return sample_files(self.cell_folder(digest))


def sample_files(folder: Path) -> list[Path]:
    """The files with the samples of a cell. A pipe or a device of such a name is none: to read it would never end."""
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file() or path.is_dir())


def image_files(run: Path) -> list[Path]:
    """The images of a run directory. A link is none: it may lead to any file of this machine."""
    return sorted(path for path in (run / "images").glob("*.png") if path.is_file() and not path.is_symlink())


def refuse_links(run: Path) -> None:
    """Raises StoreError if a file or folder that reports, tables, figures and results replace is a link.

    A run directory of somebody else could otherwise let `icl report` write over any file of this machine.
    """
    for name in WRITTEN:
        for path in (run / name, *(run / name).rglob("*")):
            if path.is_symlink():
                raise StoreError(f"{path} is a link, and only files of the run are written. Remove it.")


def describe_damaged_lines(places: Sequence[str], remedy: str) -> str:
    """A sentence on lines that are not complete samples of their cells; '' without such lines."""
    if not places:
        return ""
    more = f", and {len(places) - 1:,} more," if len(places) > 1 else ""
    return (
        f"{places[0]}{more} is not a complete sample of its cell and is ignored: it was edited, or is damaged. {remedy}"
    )


class SampleWriter:
    """A writer that appends samples to the cells of a run. `append` returns when the lines are with the system.

    Args:
        store: The run directory.
        worker: The name of the files.
        invocation: The number of this process, which each sample receives (`experiments.store.invocations`).
    """

    def __init__(self, store: Store, worker: str = "0", invocation: int = 0) -> None:
        self.store, self.worker, self.invocation = store, worker, invocation
        self.files: OrderedDict[str, FileIO] = OrderedDict()

    def append(self, digest: str, samples: Sequence[Sample]) -> None:
        lines = (serialize_sample(sample, self.invocation) for sample in samples)
        left = memoryview(b"".join(lines))
        try:
            file = self._file(digest)
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            where = self.store.cell_folder(digest)
            raise StoreError(
                f"{where} cannot be written: {error.strerror or error}. Finished samples are stored. Free some space "
                "and run the same command to continue."
            ) from error

    def close(self) -> None:
        while self.files:
            self.files.popitem()[1].close()

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, digest: str) -> FileIO:
        if digest in self.files:
            self.files.move_to_end(digest)
            return self.files[digest]
        path = self.store.cell_folder(digest) / f"{self.worker}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(path)
        self.files[digest] = path.open("ab", buffering=0)
        if len(self.files) > OPEN_FILES:
            self.files.popitem(last=False)[1].close()
        return self.files[digest]


def serialize_sample(sample: Sample, invocation: int | None = None) -> bytes:
    """The sample as one JSON line, without its empty fields.

    Args:
        sample: The sample.
        invocation: The number of the process that writes it. None: the sample's own.

    Raises:
        StoreError: The `meta` of the sample is not JSON.
    """
    values = vars(sample) if invocation is None else vars(sample) | {"invocation": invocation}
    content = {name: value for name in _FIELDS if (value := values[name]) or name == "seed"}
    try:
        # half of a surrogate pair becomes '?'
        return _to_json(content).encode(errors="replace") + b"\n"
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"sample '{sample.query}' cannot be stored as JSON ({error}). If its task is yours, `icl check task` "
            "names the fact in `meta`."
        ) from error


def truncate_partial_line(path: Path, is_complete: Callable[[bytes], object] | None = None) -> bool:
    """Cuts off a partial last line that a killed process left. Returns whether there was one.

    A last line to which nothing but its end is missing receives it.

    Args:
        path: The file.
        is_complete: Whether a line is complete. By default it checks for a complete sample.
    """
    if not path.is_file():
        return False
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return False
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return False
        file.seek(0)
        data = file.read()
        if (is_complete or parse_line)(data[data.rfind(b"\n") + 1 :]):
            file.write(b"\n")
        else:
            file.truncate(data.rfind(b"\n") + 1)
        return True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one step: a reader sees the old file or the new one, never a part."""
    _write(path, (json.dumps(content, indent=1, ensure_ascii=False, default=repr) + "\n").encode())


@contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block, such as a full disk, into a StoreError with the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path} cannot be written: {error.strerror or error}.") from error


def write_csv(path: Path, frame: DataFrame) -> None:
    """Writes a table for spreadsheets (`csv_text`)."""
    write_text(path, csv_text(frame))


def csv_text(frame: DataFrame) -> str:
    """A table as CSV. A text that a spreadsheet would compute as a formula begins with an apostrophe."""
    texts = frame.select_dtypes(exclude="number").columns
    safe = frame.assign(**{name: frame[name].map(_without_formula) for name in texts})
    return str(safe.rename(columns=_without_formula).to_csv(index=False))


def _without_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_text(path: Path, text: str) -> None:
    """Writes a text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file in one step: if the disk is full, the earlier content stays. Makes no folder.

    Only a regular file is replaced. A symbolic link stays, and its target gets the data. A pipe or a device is written
    to in place.

    Raises:
        StoreError: The path cannot be written.
    """
    if os.path.exists(path) and not path.is_file():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    else:
        _write(path.resolve(), data, within=False)


@contextmanager
def _report_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error


def _write(path: Path, data: bytes, within: bool = True) -> None:
    """Replaces a file in one step. within: whether the file is in the run directory; its folders are then made."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if within:
            path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of a killed process, or a link of somebody else
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_mapping(path: Path, remedy: str = "Remove it to start this part again.") -> dict[str, Any] | None:
    """The mapping in a JSON file, or None if there is no file. Raises DamagedFileError with the remedy."""
    try:
        if path.exists() and not path.is_file():
            raise DamagedFileError(f"{path} is damaged (no file). {remedy}")
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged (no mapping). {remedy}")
    return content


def _read_formatted(path: Path, remedy: str) -> dict[str, Any] | None:
    """The content of a file with a format number, without that number."""
    content = read_mapping(path, remedy)
    if content is not None and (number := content.pop("format", None)) != FORMAT:
        if type(number) is int and number > FORMAT:
            raise StoreError(
                f"{path} has format {number}, which a newer version of mm-icl wrote. This version reads format "
                f"{FORMAT}. Update mm-icl."
            )
        had = "no format number" if number is None else f"format {number!r:.40}"
        raise StoreError(
            f"{path} has {had}; this version reads format {FORMAT}. Version 0.1 wrote it, or it was edited. Run its "
            "config again under another name (docs/migration.md)."
        )
    return content


def scored_sample(line: Mapping[str, Any], score: float | None) -> ScoredSample:
    """A sample of the store as a run-level metric reads it. score: None if the sample failed or has no score."""
    texts = {name: tuple(line.get(name, ())) for name in ("gold", "options")}
    return ScoredSample(
        line["query"], score, line.get("group") or None, line.get("output", ""), **texts, meta=line.get("meta", {})
    )


def parse_line(raw: bytes) -> dict[str, Any] | None:
    """The sample of a line, or None if the line is not a complete sample.

    The types of fields are checked, and scores are in [0, 1]. Otherwise a line written by hand could cause a wrong
    figure or an error far from here.
    """
    try:
        line = from_json(raw, cache_strings="keys")
    except ValueError:
        return None
    if not isinstance(line, dict) or not line.keys() >= REQUIRED:
        return None
    if [*map(type, line.values())] != [*map(_TYPES.get, line)]:
        return None
    is_sample = (
        {str}.issuperset(map(type, chain.from_iterable(line.get(name, ()) for name in TEXT_LISTS)))
        and all(isinstance(demo, list) and len(demo) == 3 for demo in line.get("demos", []))
        and _are_owners(line.get("image_of", []), len(line.get("demos", [])))
        and all(map(_score, line.get("scores", {}).values()))
    )
    return line if is_sample else None


def _are_owners(owners: list[Any], num_demos: int) -> bool:
    """Whether all items are indices of demonstrations, or -1."""
    return all(isinstance(owner, int) and -1 <= owner < num_demos for owner in owners)


def _score(value: Any) -> bool:
    return isinstance(value, int | float) and -ROUNDING <= value <= 1 + ROUNDING
