"""Opening of data sources with the `datasets` library. The rule depends on the kind of path:

    a folder of `save_to_disk`              load_from_disk
    a folder of images and rows             its file of rows: the one named as the split (test.jsonl), or the only one
    any other folder                        load_dataset(folder): parquet, JSON lines, CSV or an image folder
    a .parquet, .json, .jsonl or .csv file  load_dataset(builder, file); its column `split` names the split of each row
    a .json file of objects by name         one row for each object, with its name in the column `key`
    a .json file with one list of objects   one row for each object, as in {"version": 1, "data": [...]}
    anything else                           a data set of the Hugging Face hub, by its id

A split that a source does not have is an error. A file without the column `split` has the splits that its name contains
(test.jsonl, birds_train.csv). Without a split, a file is all its rows, and any other source is its split `test`.

A data set that has moved on the hub is found under both ids (`FORMER_OWNERS`): the former one is opened if the present
one does not exist or is not in the cache of a machine without a network, and `DataSource.note` says so. `revision` is a
branch, tag or commit of the hub; `DataSource.revision` is the commit that was read.

Cells of a CSV file stay as they are written: 00501, 0.50 and None are texts. An empty cell is a missing value, and a
column of nothing but true and false has truth values. `DataSource.numbers` names the columns of numbers. The
`metadata.csv` of an image folder, and CSV files of the hub, have the types that `datasets` gives them.

Images stay encoded (`decode=False`).
"""

import codecs
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from icl import (
    SMALL_SOURCE_BYTES,
    DataError,
    datasets,
    did_you_mean,
    hide_datasets_progress,
    httpx2,
    hub_commit,
    hub_problem,
    huggingface_hub,
    pa,
    pd,
    ruamel,
    search_candidates,
)

logger = logging.getLogger(__name__)

BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv"}
CSV = "csv"
"""The builder of `datasets` for tables of text."""
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
SPLITS = frozenset({"train", "test", "validation", "val", "dev"})
DEFAULT_SPLIT = "test"
"""The split of a source with several splits, if none is named."""
SPLIT_COLUMN = "split"
"""The column that names the split of each row of a file."""
COMMIT = re.compile(r"^[0-9a-f]{40}$")
HUB_ID = re.compile(r"^\w[\w.-]*(/\w[\w.-]*)?$")
FORMER_OWNERS = {"lmms-lab-encoder": "lmms-lab"}
"""Owner on the hub -> who owned its data sets before they moved, with the same names (July 2026)."""
DIFFERENT_COLUMNS = "its files have different columns. Use one of them as the path."
NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")
"""What `datasets` says of a file without rows."""
TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""The cells of a CSV file that are truth values, if a column has no others."""
NUMBERS = r"^[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""Cells of a CSV file that are numbers. A number with leading zeros is a name, such as a postal code."""
MAX_SHOWN = 200
"""A longer path is cut in messages: it may be an image in base64."""
SAVED = ("dataset_dict.json", "state.json")  # files that `save_to_disk` writes


@dataclass(frozen=True, eq=False)
class DataSource:
    """One split of a data set, with its rows in order.

    Attributes:
        folder: The folder of local data, from which relative image paths start. None for a data set of the hub.
        allow_outside: Whether a row may name an image file outside the folder of the data.
        revision: The id and commit of a data set of the hub, as "owner/name@commit"; '' for local data.
        note: A sentence for users, if the data set was not found where the config says.
    """

    data: "datasets.Dataset"
    name: str
    folder: Path | None
    allow_outside: bool = False
    revision: str = ""
    note: str = ""

    @property
    def identity(self) -> str:
        """The name in the identity of images. It does not change if the data set moves."""
        return str(former_id(self.name))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)

    @cached_property
    def features(self) -> Mapping[str, Any]:
        """The types of the columns. `datasets` copies all of them at each access."""
        features: Mapping[str, Any] = self.data.features
        return features

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The columns of a CSV file that have nothing but numbers, which are stored as such with samples."""
        if self.data.info.builder_name != CSV:
            return frozenset()
        return frozenset(
            name
            for name, column in zip(self.columns, self.data.data.columns, strict=True)
            if str(column.type) == "string"
            and column.null_count < len(column)
            and pa.compute.all(pa.compute.match_substring_regex(column, NUMBERS)).as_py()
        )

    def image_path(self, text: str, base: str = "") -> Path:
        """The file that a row names.

        Data from elsewhere could otherwise show any file of this machine to a model, and in a report.

        Args:
            text: The path, absolute or relative to the folder of the data.
            base: A folder that the config names, absolute or relative to the folder of the data. The path stays in it.

        Raises:
            ValueError: The path leaves the folder, and `allow_outside` is false.
        """
        folder = self.folder or Path()
        path, named = Path(os.path.normpath(folder / text)), Path(os.path.normpath(folder / base))
        if self.allow_outside or _is_inside(path, _caches()):
            return path
        real = folder if self.folder and named.is_relative_to(folder) else named  # a link in the data names nothing
        if (self.folder or base) and path.is_relative_to(named) and _is_inside(path, (real, *_caches())):
            return path
        where = f"the folder {named}" if self.folder or base else "the data set"
        short_text = text if len(text) <= MAX_SHOWN else f"{text[:40]}…"
        raise ValueError(
            f"the path '{short_text}' points outside {where}. Set allow_outside: true if you trust the data"
        )


def former_id(path: str | None) -> str | None:
    """The id of a data set before it moved on the hub; the path itself if it has not moved."""
    owner, slash, name = (path or "").partition("/")
    return f"{FORMER_OWNERS[owner]}/{name}" if slash and owner in FORMER_OWNERS else path


def open_source(
    path: str,
    config: str | None,
    split: str | None,
    *,
    revision: str | None = None,
    allow_outside: bool = False,
    folders: Sequence[Path] = (),
    default_split: str = DEFAULT_SPLIT,
) -> DataSource:
    """The split of a data set.

    Args:
        path: A local file or folder, or the id of a data set of the hub.
        config: The configuration of a data set of the hub.
        split: The split. None: all rows of a file, else `default_split`.
        revision: Branch, tag or commit of a data set of the hub. None: the newest.
        allow_outside: Whether a row may name an image file outside the folder of the data.
        folders: The folders to which a local path may be relative, before the working directory.
        default_split: The split of a source with several splits, if none is named.

    Raises:
        DataError: It cannot be opened. The message lists the splits if there is no such split.
    """
    places, former = search_candidates(path, folders), str(former_id(path))
    here = next((place for place in (*places, *search_candidates(former, folders)) if os.path.exists(place)), places[0])
    if not os.path.exists(here) and not (HUB_ID.match(path) and here.suffix.lower() not in BUILDERS):
        looked_in = ", ".join(str(place.parent) for place in places)
        raise DataError(f"data set {path}: there is no such file or folder (looked in {looked_in}).")
    if revision is not None and here.exists():
        raise DataError(f"revision: {here} is on this machine and has no revisions. Remove `revision`.")
    name, file, commit, note = split or default_split, None, "", ""
    logger.info("opening data set %s, split %s", path, name)
    try:
        with hide_datasets_progress(_quick(here)):
            if here.exists():
                data, file = _read(here, config, name)
            else:
                data, commit, note = _read_hub(path, config, name, revision)
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ConnectionError,
        OSError,
        ValueError,
        RuntimeError,
        StopIteration,
        httpx2.HTTPError,
        huggingface_hub.errors.RevisionResolutionError,
    ) as error:
        is_answer = (
            isinstance(error, OSError | httpx2.HTTPError | huggingface_hub.errors.RevisionResolutionError)
            and not here.exists()
        )
        if is_answer and (problem := hub_problem(error, path, revision, "data set")):
            raise DataError(f"data set {path}, split '{name}': {problem}") from error
        kind = "" if here.exists() else " (there is no such file or folder, so it was taken for a data set of the hub)"
        kind += f", revision '{revision}'" if revision else ""
        raise DataError(f"data set {path}{kind}, split '{name}': {_first_line(error)}") from error
    folder = (here if here.is_dir() else here.parent).resolve() if here.exists() else None
    rows = _split_of(data, path, name) if file is None else _rows_of_split(data, file, split)
    source = DataSource(encoded(rows), f"{path}[{name}]", folder, allow_outside, commit, note)
    logger.debug("%s has %d rows with the columns %s", source.name, len(source), ", ".join(source.columns))
    return source


def _is_inside(path: str | Path, folders: Iterable[Path]) -> bool:
    """Whether a file is in one of the folders, after all links."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def _check_inside(paths: Iterable[str | Path], folder: Path) -> None:
    """Raises ValueError if a file of a folder of data is outside it, or an address."""
    for path in paths:
        if "://" in str(path) or not _is_inside(path, (folder, *_caches())):
            raise ValueError(f"{path} is not in the folder {folder}. Copy the file into it, or name the file itself.")


def _caches() -> tuple[Path, ...]:
    """The folders in which `datasets` keeps the files of data sets of the hub."""
    names = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "HF_HUB_CACHE")
    return tuple(Path(str(getattr(datasets.config, name))) for name in names if getattr(datasets.config, name, None))


def _read_hub(path: str, config: str | None, split: str, revision: str | None) -> tuple[Any, str, str]:
    """A data set of the hub, its id and commit, and a sentence if it was found under its former id."""
    former, note = str(former_id(path)), ""
    try:
        data = _load(path, config, split, revision)
    except (
        datasets.exceptions.DatasetNotFoundError,
        huggingface_hub.errors.RepositoryNotFoundError,
        ConnectionError,
        huggingface_hub.errors.RevisionResolutionError,
    ) as error:
        is_out_of_reach = isinstance(error, ConnectionError | huggingface_hub.errors.RevisionResolutionError)
        if former == path or (is_out_of_reach and not _is_cached(former)):
            raise
        try:
            data = _load(former, config, split, revision)
        except (
            datasets.exceptions.DatasetsError,
            huggingface_hub.errors.RepositoryNotFoundError,
            ConnectionError,
            huggingface_hub.errors.RevisionResolutionError,
            ValueError,
        ):
            raise error from None
        note = f"the data set {path} is neither on the hub nor in its cache, so {former} was read, its former id."
        path = former
    commit = _commit(data)
    return data, f"{path}@{commit}" if commit else path, note


def _load(path: str, config: str | None, split: str, revision: str | None) -> Any:
    """Raises ValueError if what is read, such as an older copy in the cache, is not the revision."""
    commit = None if revision is None else hub_commit(path, revision, "data set")
    data = datasets.load_dataset(path, config, split=split, revision=commit)
    if commit not in (None, cached := _commit(data)):
        raise ValueError(f"revision '{revision}' is the commit {commit}, and the cache has {cached or 'another one'}.")
    return data


def _is_cached(path: str) -> bool:
    """Whether the cache has data sets of the owner. Without any, a second search without a network costs minutes."""
    return any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{path.partition('/')[0]}___*"))


def _commit(data: Any) -> str:
    """The commit of a data set of the hub, by its place in the cache; '' if it is not in the cache."""
    folders = {Path(file["filename"]).parent.name for file in data.cache_files}
    return next((name for name in folders if COMMIT.match(name)), "")


def _read(here: Path, config: str | None, split: str) -> tuple[Any, Path | None]:
    """Local data and the file or folder that has all its rows, of whatever split; None if the data is by splits."""
    if here.is_dir() and any((here / name).is_file() for name in SAVED):
        saved = datasets.load_from_disk(str(here))
        for one in saved.values() if isinstance(saved, datasets.DatasetDict) else [saved]:
            _check_inside((file["filename"] for file in one.cache_files), here)
        return saved, None if isinstance(saved, datasets.DatasetDict) or str(saved.split) == split else here
    if here.is_dir():
        rows = _rows_beside_images(here, split)
        if rows is not None:
            _check_inside([rows], here)
            return _read(rows, config, split)
        _check_card(here)
        builder = datasets.load_dataset_builder(str(here.resolve()), config)
        for files in (builder.config.data_files or {}).values():
            _check_inside(files, here)
        return _built(builder, str(here.resolve()), config), None
    if not here.is_file():
        raise ValueError("it is a pipe or a device, not a file.")
    name = BUILDERS.get(here.suffix.lower())
    if name is None:
        raise ValueError(f"a file is one of {', '.join(BUILDERS)}, not '{here.suffix}'. Save it as one of them.")
    if name != "parquet":
        _check_encoding(here)
    if (objects := _rows_of_object(here)) is not None:
        return datasets.Dataset.from_list(objects), here
    options: dict[str, Any] = {"data_files": {"data": str(here)}, **({"sep": _separator(here)} if name == CSV else {})}
    try:
        return _built(datasets.load_dataset_builder(name, **options), name, **options)["data"], here
    except (datasets.exceptions.DatasetsError, ValueError):
        _check_lines(here)
        raise


def _built(builder: Any, path: str, config: str | None = None, **options: Any) -> Any:
    """All splits of a builder of `datasets`; the cells of CSV files as they are written."""
    if builder.name != CSV or builder.info.features is not None:
        builder.download_and_prepare()
        return builder.as_dataset()
    header = {**builder.config.pd_read_csv_kwargs, "chunksize": None, "nrows": 1}
    heads = [pd.read_csv(file, **header) for names in builder.config.data_files.values() for file in names]
    if any(not isinstance(one.index, pd.RangeIndex) for one in heads):  # pandas takes the first cell as an index
        raise ValueError("its first row has more cells than the header has names. Quote cells that have commas.")
    first, *others = [list(map(str, one)) for one in heads]
    if any(sorted(names) != sorted(first) for names in others):
        raise ValueError(DIFFERENT_COLUMNS)
    texts = datasets.Features({name: datasets.Value("string") for name in first})
    builder = datasets.load_dataset_builder(path, config, features=texts, na_filter=False, **options)
    builder.download_and_prepare()
    return datasets.DatasetDict({split: _with_missing(data) for split, data in builder.as_dataset().items()})


def _with_missing(data: "datasets.Dataset") -> "datasets.Dataset":
    """Texts of a CSV file, with missing values for empty cells, and truth values for columns that have no others."""
    table, features = data.data, {**data.features}
    for place, name in enumerate(features):
        column = table.column(place)
        is_empty = pa.compute.equal(column, "")
        if pa.compute.all(pa.compute.is_in(column, pa.array(["", *TRUTH]))).as_py():
            cells: Any = pa.compute.is_in(column, pa.array([text for text, is_true in TRUTH.items() if is_true]))
            features[name] = datasets.Value("bool")
        else:
            cells = column
        if cells is not column or pa.compute.any(is_empty).as_py():
            cells = pa.compute.if_else(is_empty, pa.scalar(None, cells.type), cells)
            table = table.set_column(place, name, cells)
    info = data.info.copy()
    info.features = datasets.Features(features)
    return datasets.Dataset(table, info, data.split)


def _rows_of_split(data: "datasets.Dataset", file: Path, split: str | None) -> "datasets.Dataset":
    """The rows of a split of one file: those with its name in the column `split`, or all if the file's name has it.

    Raises DataError if the file does not have the split.
    """
    if split is None:
        return data
    if SPLIT_COLUMN in data.column_names:
        names = [str(name) for name in data[SPLIT_COLUMN]]
        if split not in names:
            values = list(dict.fromkeys(names))
            raise DataError(
                f"data set {file}: no row has '{split}' in the column '{SPLIT_COLUMN}'.{did_you_mean(split, values)} "
                f"Values: {', '.join(values)}."
            )
        return data.select([row for row, name in enumerate(names) if name == split])
    if split.lower() not in re.split(r"[^a-z0-9]+", file.stem.lower()):
        raise DataError(
            f"data set {file} has no split '{split}': it has no column '{SPLIT_COLUMN}', and its name does not contain "
            f"'{split}'. Remove the split to use all rows, or add the column."
        )
    return data


def _check_card(folder: Path) -> None:
    """Raises ValueError if the card of a folder of data names files outside the folder. Contacts no address."""
    for card in (folder / "README.md", folder / ".huggingface.yaml"):
        if card.is_file():
            _check_inside([card], folder)
            content = (
                huggingface_hub.repocard.metadata_load(card)
                if card.suffix == ".md"
                else ruamel.yaml.YAML(typ="safe").load(card)
            )
            for name in _named_files((content or {}).get("configs")):
                if "://" in name or os.path.isabs(name) or ".." in PurePath(name).parts:
                    raise ValueError(f"{card} names data outside the folder: '{name}'. Remove it from the card.")


def _named_files(node: Any, key: str = "") -> Iterator[str]:
    """The texts of `data_files` and `data_dir` in the configs of a card."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _named_files(value, key if key == "data_files" else name)
    elif isinstance(node, list):
        for value in node:
            yield from _named_files(value, key)
    elif isinstance(node, str) and key in ("data_files", "data_dir"):
        yield node


def _rows_beside_images(folder: Path, split: str) -> Path | None:
    """The file of rows in a folder with images. None if it has no rows or no images.

    Raises ValueError if several files are possible, or if the only file belongs to another split.
    """
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in BUILDERS and path.is_file()]
    files = [path for path in tables if path.stem != "metadata"]
    if not files or not any(path.suffix.lower() in IMAGES for path in folder.rglob("*")):
        return None
    named = [path for path in files if path.stem == split] or [p for p in files if p.stem not in SPLITS]
    if not named:
        raise ValueError(f"it has images and the rows of {', '.join(p.name for p in files)}, but none for this split.")
    if len(named) > 1:
        raise ValueError(
            f"it has images and several files of rows ({', '.join(p.name for p in named)}). Use one of them as path."
        )
    return named[0]


def _check_encoding(path: Path) -> None:
    """Raises ValueError if a file of text is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(2**20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ValueError("its text is not UTF-8. Save it as UTF-8.") from error


def _check_lines(path: Path) -> None:
    """Raises ValueError with the place in a file that is not JSON, or the first line that is not."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
        return
    with path.open(encoding="utf-8") as file:
        if path.suffix.lower() == ".json":
            try:
                json.load(file)
            except json.JSONDecodeError as error:
                if error.msg != "Extra data":  # JSON lines with another suffix
                    raise ValueError(
                        f"line {error.lineno} is not JSON ({error.msg}). Is the file complete? Get it again."
                    ) from error
            return
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line or "null")
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON ({error.msg}). Each line is one row.") from error


def _separator(path: Path) -> str:
    """What separates the columns: tabs in .tsv, else commas, or semicolons if the first line has more of them."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8") as file:
        header = file.readline()
    return ";" if header.count(";") > header.count(",") else ","


def _rows_of_object(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a JSON file with one object: an object for each row, as in SugarCrepe, or one list of rows. None for
    other files.
    """
    if path.suffix.lower() != ".json":
        return None
    with path.open(encoding="utf-8") as file:
        if file.read(64).lstrip()[:1] != "{":
            return None
        file.seek(0)
        try:
            content = json.load(file)
        except ValueError:  # JSON lines with a wrong suffix, or broken: the table reader raises the error
            return None
    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(value, dict) for value in content.values()):
        return [{"key": name, **row} for name, row in content.items()]
    lists = [value for value in content.values() if isinstance(value, list) and all(isinstance(v, dict) for v in value)]
    return lists[0] or None if len(lists) == 1 else None


def _split_of(data: Any, path: str, split: str) -> "datasets.Dataset":

    if not isinstance(data, datasets.DatasetDict):
        return data
    if split not in data:
        raise DataError(
            f"data set {path} has no split '{split}'.{did_you_mean(split, data)} Splits: {', '.join(data)}."
        )
    return data[split]


def encoded(data: "datasets.Dataset") -> "datasets.Dataset":
    """The data with undecoded images and other media, at any depth. Decoding opens the file or address of a row.

    Only the types change. `cast_column` would copy all rows of the data set if a cell has a list of images.
    """
    info = data.info.copy()
    info.features = datasets.Features({name: _undecoded(feature) for name, feature in data.features.items()})
    return data if info.features == data.features else datasets.Dataset(data.data, info, data.split, data._indices)


def _undecoded(feature: Any) -> Any:
    """A feature of `datasets` whose values stay as they are stored: bytes, or a path."""
    if isinstance(feature, dict):
        return {name: _undecoded(one) for name, one in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(one) for one in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    return replace(feature, decode=False) if getattr(feature, "decode", False) is True else feature


def _first_line(error: Exception) -> str:
    """The first line of an error. `datasets` wraps a reader's error, which names the row, in a general one."""
    cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
    if isinstance(error, StopIteration) or any(text in str(cause or error) for text in NO_ROWS):
        return "there is nothing in it."
    if isinstance(cause or error, datasets.table.CastError):
        return DIFFERENT_COLUMNS
    text = str(cause or error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".") + "."


def _quick(here: Path) -> bool:
    """Whether the source is local and small."""
    files = [here] if here.is_file() else here.rglob("*")
    return here.exists() and sum(file.stat().st_size for file in files if file.is_file()) < SMALL_SOURCE_BYTES
