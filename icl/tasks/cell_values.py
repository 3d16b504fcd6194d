"""Values of a row as text, and its images: embedded, several in one cell, or named by a path."""

import ast
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icl.errors import DataError
from icl.images import Image, decode_image, open_image_file
from icl.tasks.source import DataSource

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image as PILImage


MAX_PATH = 4096
"""The longest path of a file on Linux. A longer text is an image in base64."""


def text_of(value: Any) -> str:
    """A value as the text of an answer or an option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def parse_list(text: str) -> list[Any] | None:
    """The items of a list that is written as Python writes it: "['open', 'closed']". None for any other text."""
    if not text.startswith("["):
        return None
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return items if isinstance(items, list) else None


def image_keys(source: DataSource, columns: Sequence[str], rows: Sequence[int]) -> list[list[str]]:
    """Keys that identify the images of these rows without decoding: path, or sha256 of the encoded bytes."""
    keys_by_row: list[list[str]] = [[] for _ in rows]
    for column in columns:
        for keys, values in zip(keys_by_row, source.data.select_columns([column]).select(list(rows)), strict=True):
            for cell in _cells(values[column]):
                data = cell.get("bytes") if isinstance(cell, Mapping) else None
                path = cell.get("path") if isinstance(cell, Mapping) else cell
                keys.append(hashlib.sha256(data).hexdigest() if data else str(path))
    return keys_by_row


def _cells(value: Any) -> list[Any]:
    """The images in one cell of a table: none, one or several."""
    if value is None:
        return []
    return [cell for cell in value if cell is not None] if isinstance(value, list | tuple) else [value]


def cell_images(view: "Dataset", source: DataSource, column: str, row: int) -> Iterator[Image]:
    """The unopened images of one cell. view: the data with this column only."""
    from datasets import Image as ImageFeature

    if isinstance(source.features[column], ImageFeature):
        origin = f"{source.name} row {row}, column '{column}'"
        yield Image.from_source(StoredImage(source, view, column, row, 0), origin)
        return
    for place, cell in enumerate(_cells(view[row][column])):
        if isinstance(cell, str):
            yield _named_image(cell, source, f"{source.name} row {row}")
        else:
            origin = f"{source.name} row {row}, column '{column}', image {place}"
            yield Image.from_source(StoredImage(source, view, column, row, place), origin)


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A loader of one image of a table."""

    source: DataSource
    view: "Dataset"
    column: str
    row: int
    place: int

    def __call__(self) -> "PILImage":
        cells = _cells(self.view[self.row][self.column])
        if self.place >= len(cells):
            raise ValueError("the cell is empty")
        cell = cells[self.place]
        if not isinstance(cell, Mapping):
            raise ValueError(f"{cell!r:.40} is neither an image nor the path of one")
        if cell.get("bytes"):
            return decode_image(cell["bytes"])
        if cell.get("path"):
            return open_image_file(str(self.source.image_path(cell["path"])))
        raise ValueError("the cell has neither bytes nor a path")


def image_at_path(path: str, values: Mapping[str, Any], source: DataSource, at: str) -> Image:
    """The image of a row by its path, relative to the data's folder. It must stay in the folder that `path` names."""
    filled = path.format(**{key: text_of(value) for key, value in values.items()})
    return _named_image(filled, source, at, base=os.path.dirname(path.partition("{")[0]))


def _named_image(text: str, source: DataSource, at: str, base: str = "") -> Image:
    if "://" in text:
        raise DataError(f"{at}: the image '{text:.80}' is an address. Download the images, and name their files.")
    if text.startswith("data:") or len(text) > MAX_PATH:
        raise DataError(f"{at}: the image '{text:.40}…' is not a path. Save the images as files, and name these.")
    try:
        path = source.image_path(text, base)
    except ValueError as error:
        raise DataError(f"{at}: {error}.") from error
    return Image.from_path(path, f"{path} ({at})")
