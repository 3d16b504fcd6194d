"""Opens a data source with the `datasets` library, whatever it is: one rule for each kind of path.

    a folder that `save_to_disk` wrote      load_from_disk
    any other folder                        load_dataset(folder): parquet, JSON lines, CSV or an image folder
    a .parquet, .json, .jsonl or .csv file  load_dataset(builder, file); it has no splits, any name of one will do
    anything else                           a data set of the Hugging Face hub, by its id

Pictures stay encoded (`decode=False`): opening a source decodes none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.bars import QUIET_BELOW, no_data_bars
from icl.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv"}
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder


@dataclass(frozen=True, eq=False)
class Source:
    """One split, its rows in their order. folder: what relative picture paths start from, for local data."""

    data: "Dataset"
    name: str
    folder: Path | None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)


def open_source(path: str, config: str | None, split: str) -> Source:
    """Raises DataError with the splits there are."""
    from datasets.exceptions import DatasetsError

    here = Path(path).expanduser()
    try:
        with no_data_bars(_quick(here)):
            data = _read(path, here, config, split)
    except (
        DatasetsError,
        FileNotFoundError,
        ConnectionError,
        OSError,
        ValueError,
        RuntimeError,
        StopIteration,
    ) as error:
        kind = "" if here.exists() else " (there is no such file or folder, so it was taken for a data set of the hub)"
        raise DataError(f"data set {path}{kind}, split '{split}': {_first_line(error)}") from error
    folder = (here if here.is_dir() else here.parent).resolve() if here.exists() else None
    return Source(_encoded(_split_of(data, path, split)), f"{path}[{split}]", folder)


def _read(path: str, here: Path, config: str | None, split: str) -> Any:
    import datasets

    if here.is_dir() and any((here / name).is_file() for name in SAVED):
        return datasets.load_from_disk(str(here))
    if here.is_dir():
        return datasets.load_dataset(str(here.resolve()), config)
    if here.is_file():
        builder = BUILDERS.get(here.suffix.lower())
        if builder is None:
            raise ValueError(f"a file is one of {', '.join(BUILDERS)}, not '{here.suffix}'.")
        options = {"sep": "\t"} if here.suffix.lower() == ".tsv" else {}
        return datasets.load_dataset(builder, data_files={"data": str(here)}, split="data", **options)
    return datasets.load_dataset(path, config, split=split)


def _split_of(data: Any, path: str, split: str) -> "Dataset":
    from datasets import DatasetDict

    if not isinstance(data, DatasetDict):
        return data
    if split not in data:
        raise DataError(
            f"data set {path} has no split '{split}'.{did_you_mean(split, data)} Splits: {', '.join(data)}."
        )
    return data[split]


def _encoded(data: "Dataset") -> "Dataset":
    """The same data with every picture column left undecoded."""
    from datasets import Image

    for name, feature in data.features.items():
        if isinstance(feature, Image):
            data = data.cast_column(name, Image(decode=False))
        elif isinstance(feature, list) and len(feature) == 1 and isinstance(feature[0], Image):
            data = data.cast_column(name, [Image(decode=False)])
        elif isinstance(getattr(feature, "feature", None), Image):
            data = data.cast_column(name, type(feature)(Image(decode=False)))
    return data


def _first_line(error: Exception) -> str:
    """What it says. `datasets` wraps a reader's error, which knows the row, in one that knows nothing."""
    from datasets.exceptions import DatasetGenerationError

    if isinstance(error, StopIteration):
        return "there is nothing in it."
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
    text = str(cause or error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".") + "."


def _quick(here: Path) -> bool:
    """Whether it lies here and is small."""
    files = [here] if here.is_file() else here.rglob("*")
    return here.exists() and sum(file.stat().st_size for file in files if file.is_file()) < QUIET_BELOW
