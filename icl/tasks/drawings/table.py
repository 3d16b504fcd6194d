"""The installed drawings: one row each, read from the folder that `icl data drawings` wrote."""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from icl.cache_folder import cache_folder
from icl.errors import DataError, ImageError
from icl.images import Image, open_image_file
from icl.parameter_files import expand_user

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

TABLE, IMAGES, SOURCES = "drawings.jsonl", "images", "sources.json"


@dataclass(frozen=True)
class DrawingRecord:
    """One cleaned drawing.

    Attributes:
        file: Its file in the folder `images`.
        style: 'openclipart', 'tuxpaint', 'noto', 'twemoji' or 'fluent'.
        author: Who drew it; '' if the package does not say.
        folder: The folder in its package, which is a topic.
        noun: What it shows, by its title; '' if the title names no concrete thing.
        category: Kind of the noun: animal, artifact, body part, food, natural object or plant.
    """

    id: str
    file: str
    style: str
    title: str
    keywords: tuple[str, ...]
    author: str
    folder: str
    noun: str
    category: str

    def image(self, folder: Path) -> Image:
        return Image.from_source(partial(_open_drawing, str(folder / IMAGES / self.file)), f"drawings/{self.id}")

    @property
    def source(self) -> str:
        """Who made it: the author, or the whole style where authors are not named, as for an emoji font."""
        return self.author or self.style


def drawings_folder(path: str | None = None) -> Path:
    """The folder of the drawings: `path`, or `drawings` in the cache folder."""
    return expand_user(path) if path else cache_folder() / "drawings"


def read_drawings(folder: Path) -> tuple[DrawingRecord, ...]:
    """The drawings of a folder, in its order. Raises DataError with the command that installs them."""
    try:
        changed = (folder / TABLE).stat().st_mtime_ns
    except OSError as error:
        raise DataError(
            f"the drawings are not installed: there is no {folder / TABLE}. Install them with: icl data drawings "
            "(25 to 400 MB of packages, by the sets you choose)"
        ) from error
    return _read(folder, changed)


def damaged_drawings(folder: Path) -> list[str]:
    """Files of a finished folder that are missing or damaged: their checksums are read, and no pixels."""
    return [row.file for row in read_drawings(folder) if not _is_whole(folder / IMAGES / row.file)]


def _is_whole(file: Path) -> bool:
    from PIL import Image as PILImage

    try:
        with PILImage.open(file, formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _open_drawing(path: str) -> "PILImage":
    """The pixels of a file. Raises ImageError with the command that mends the folder."""
    try:
        image = open_image_file(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        folder = Path(path).parent.parent
        to = "" if folder == drawings_folder() else f" --to {folder}"
        raise ImageError(f"the drawing {path} {reason}. Mend the folder: icl data drawings{to}") from error
    return image


@lru_cache(maxsize=4)
def _read(folder: Path, changed: int) -> tuple[DrawingRecord, ...]:
    """The drawings of a table that was changed at this time, in nanoseconds."""
    try:
        lines = (folder / TABLE).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return tuple(DrawingRecord(**{**row, "keywords": tuple(row["keywords"])}) for row in rows)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder / TABLE} is damaged ({error}). Delete {folder}, then repeat: icl data drawings"
        ) from error
