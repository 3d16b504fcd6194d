"""Values of a row as text, and its images: embedded, several in one cell, or named by a path."""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl import (
    IMAGE_PLACEHOLDER,
    PIL,
    SEARCH_FOLDERS,
    DataError,
    Image,
    av,
    datasets,
    decode_image,
    open_image_file,
    search_candidates,
)
from icl.tasks.source import BUILDERS, DataSource

ASKING = frozenset({"human", "user"})
ANSWERING = frozenset({"gpt", "assistant"})
"""Who speaks in the turns of conversations."""
MAX_PATH = 4096
"""The longest path of a file on Linux. A longer text is an image in base64."""
BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
"""How JPEG, PNG, GIF and WebP begin in base64."""


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


def exchange_of(cell: Any) -> tuple[str | None, str | None, bool] | None:
    """The first question of a conversation, its first answer, and whether it goes on. None for a cell of another kind.

    Turns are {from: human, value: …} and {from: gpt, value: …}, as in the data of LLaVA, or {role: user, content: …}
    and {role: assistant, content: …}. Images precede the question, so their marks `<image>` are removed, as LLaVA's
    training does with them (`preprocess_multimodal`).
    """
    if not isinstance(cell, list | tuple) or not cell or not all(map(_is_turn, cell)):
        return None
    turns = [(turn.get("from", turn.get("role")), _content(turn.get("value", turn.get("content")))) for turn in cell]
    questions = [text for speaker, text in turns if speaker in ASKING]
    answers = [text for speaker, text in turns if speaker in ANSWERING]
    question = re.sub(f" ?{IMAGE_PLACEHOLDER}", "", questions[0]).strip() if questions else None
    return question, answers[0] if answers else None, len(answers) > 1


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and ({"from", "value"} <= turn.keys() or {"role", "content"} <= turn.keys())


def _content(content: Any) -> str:
    """The text of a turn, or the texts of its parts."""
    parts = content if isinstance(content, list | tuple) else [content]
    return "".join(str((part.get("text") if isinstance(part, Mapping) else part) or "") for part in parts)


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
    """The images in one cell of a table: none, one or several. A text may be a list of paths as Python writes it."""
    if value is None:
        return []
    value = (parse_list(value) if isinstance(value, str) else None) or value
    return [cell for cell in value if cell is not None] if isinstance(value, list | tuple) else [value]


def cell_images(view: "datasets.Dataset", source: DataSource, column: str, row: int) -> Iterator[Image]:
    """The unopened images of one cell. view: the data with this column only."""
    if isinstance(source.features[column], datasets.Image):
        origin = f"{source.identity} row {row}, column '{column}'"
        yield Image.from_source(StoredImage(source, view, column, row, 0), origin)
        return
    for place, cell in enumerate(_cells(view[row][column])):
        if isinstance(cell, str):
            yield _named_image(cell, source, f"{source.name} row {row}")
        else:
            origin = f"{source.identity} row {row}, column '{column}', image {place}"
            yield Image.from_source(StoredImage(source, view, column, row, place), origin)


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A loader of one image of a table."""

    source: DataSource
    view: "datasets.Dataset"
    column: str
    row: int
    place: int

    def __call__(self) -> "PIL.Image.Image":
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


@dataclass(frozen=True, eq=False)
class CutImage:
    """A loader of a part of an image."""

    whole: Image
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels

    def __call__(self) -> "PIL.Image.Image":
        image, (left, top, right, bottom) = self.whole.open(), self.box
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise ValueError(f"the box {self.box} is not inside its {image.width} x {image.height} pixels")
        return image.crop(self.box)


def image_part(image: Image, box: tuple[int, int, int, int]) -> Image:
    """The part of an image in a box, unopened."""
    return Image.from_source(CutImage(image, box), f"{image.origin}, box {box}")


def image_at_path(path: str, values: Mapping[str, Any], source: DataSource, at: str) -> Image:
    """The image of a row by its path, relative to the data's folder. It must stay in the folder that `path` names."""
    filled = path.format(**{key: text_of(value) for key, value in values.items()})
    return _named_image(filled, source, at, base=os.path.dirname(path.partition("{")[0]))


def _named_image(text: str, source: DataSource, at: str, base: str = "") -> Image:
    if "://" in text:
        raise DataError(f"{at}: the image '{text:.80}' is an address. Download the images, and name their files.")
    if text.startswith(("data:", *BASE64)) or len(text) > MAX_PATH:
        raise DataError(
            f"{at}: the image '{text:.40}…' is not a path. Save the images as files, and name these. The task "
            "vlmevalkit reads a TSV file with images in base64."
        )
    try:
        path = source.image_path(text, base)
    except ValueError as error:
        raise DataError(f"{at}: {error}.") from error
    return Image.from_path(path, f"{path} ({at})")


class RelativePaths:
    """Base class of tasks that read files by paths relative to the experiment file."""

    def __post_init__(self) -> None:
        _ = self._folders

    @classmethod
    def adapted_preset(cls, values: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys of a preset beside keys of the config. Splits on the hub do not apply to a file."""
        is_file = Path(str(own.get("path", ""))).suffix.lower() in BUILDERS
        return {key: values[key] for key in values if not (is_file and key in ("config", "split", "pool_split"))}

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        """The folders to which paths are relative: that of the experiment file, when the task is made."""
        return SEARCH_FOLDERS.get()

    def _place(self, path: str) -> Path:
        """The first place of a path that exists, else the first of all, for the error of the reader."""
        places = search_candidates(path, self._folders)
        return next((place for place in places if os.path.exists(place)), places[0])


def read_text(path: Path, benchmark: str, advice: str) -> str:
    """The text of a released file. Raises DataError.

    advice: where the release is, and what to give.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{benchmark}: {path} cannot be read ({error.strerror}). {advice}") from error


def read_json_lines(path: Path, keys: Sequence[str], benchmark: str, advice: str) -> list[Mapping[str, Any]]:
    """The objects of a released file of JSON lines. Raises DataError, also for a line without one of the keys."""
    rows = list[Mapping[str, Any]]()
    for number, line in enumerate(read_text(path, benchmark, advice).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{benchmark}: {path}:{number} is not JSON: {error}.") from error
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise DataError(f"{benchmark}: {path}:{number} has no '{missing[0]}'. A line has {', '.join(keys)}.")
        rows.append(row)
    return rows


# Frames of a video file as lazily opened images, decoded by PyAV (the extra `video`).
#
# The frames are the middles of equal parts, as `frame_grid` takes them: of 12 frames in 6 parts, 1, 3, 5, 7, 9 and
# 11. A video with fewer frames repeats some. The frames of a file are decoded together, at the first access to one of
# them.


@dataclass(frozen=True)
class VideoFrame:
    """A loader of one of the frames that are taken from a video file."""

    path: str
    place: int
    count: int

    def __call__(self) -> "PIL.Image.Image":
        return _decoded(self.path, self.count)[self.place]


def video_frames(path: Path, count: int, origin: str) -> tuple[Image, ...]:
    """The middles of `count` equal parts of a video. Raises DataError if PyAV is not installed."""
    if find_spec("av") is None:
        raise DataError(
            f"{origin} is a video, and the package av, which decodes it, is not installed. "
            "Run: pip install 'mm-icl[video]'."
        )
    return tuple(
        Image.from_source(VideoFrame(str(path), place, count), f"{origin}, frame {place + 1} of {count}")
        for place in range(count)
    )


@lru_cache(maxsize=8)
def _decoded(path: str, count: int) -> "tuple[PIL.Image.Image, ...]":
    """The chosen frames. Raises ValueError if the file is no video, or has no frame."""
    try:
        with av.open(path) as container:
            total = int(container.streams.video[0].frames) or _count(path)
            places = [(2 * i + 1) * total // (2 * count) for i in range(count)]
            frames: dict[int, Any] = {}
            for number, frame in enumerate(container.decode(video=0)):
                if number in places:
                    frames[number] = frame.to_image()
                if number >= places[-1]:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"it is not a video that can be decoded ({error})") from error
    if not frames:
        raise ValueError("it has no frame that can be decoded")
    last = frames[max(frames)]  # a file may have fewer frames than its header says
    return tuple(frames.get(place, last) for place in places)


def _count(path: str) -> int:
    """The number of frames of a file whose header does not give it."""
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))
