"""The installed drawings: one row each, read from the folder that `icl data drawings` wrote."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from icl import PIL, Example, Image, StreamKey, cache_folder, expand_user, open_image_file
from icl.errors import ConfigError, DataError, ImageError, did_you_mean

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
    try:
        with PIL.Image.open(file, formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _open_drawing(path: str) -> "PIL.Image.Image":
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


# Which drawings a task asks about and which its demonstrations show: by noun, by drawing or by author, and by style.
#
# The same person draws an apple and a pear in the same way, and often the same apple twice. A split by drawing leaves
# drawings of one author on both sides, so that the nearest demonstration is often by the query's own author. A split
# by author does not.

NounSet = Literal["all", "seen", "held_out"]
SplitBy = Literal["drawing", "author"]

HELD_OUT_BITS, QUERY_BITS = 4, 2
"""Random bits that must be zero: one noun in 16 is held out from training, and one drawing or author in four is on the
side of the queries. The shipped weights depend on the first number."""


def with_noun(drawings: Iterable[DrawingRecord], nouns: NounSet) -> list[DrawingRecord]:
    """The drawings with a noun of the set in their title."""
    return [one for one in drawings if one.noun and (nouns == "all" or is_held_out(one.noun) == (nouns == "held_out"))]


def is_held_out(noun: str) -> bool:
    """Whether no drawing of this noun is for training. The choice depends on the noun alone."""
    return StreamKey(0, noun).number("drawings/held out", HELD_OUT_BITS) == 0


def is_for_queries(drawing: DrawingRecord, by: SplitBy, seed: int) -> bool:
    """The side of a drawing: its own, or its author's."""
    name = drawing.source if by == "author" else drawing.id
    return StreamKey(seed, name).number(f"drawings/split by {by}", QUERY_BITS) == 0


def of_styles(drawings: Sequence[DrawingRecord], styles: Sequence[str] | None, parameter: str) -> list[DrawingRecord]:
    """The drawings of some styles; all without styles. Raises ConfigError for a style that is not there."""
    if styles is None:
        return list(drawings)
    present = {one.style for one in drawings}
    if unknown := [style for style in styles if style not in present]:
        raise ConfigError(
            f"{parameter}: there are no drawings of the style '{unknown[0]}'."
            f"{did_you_mean(unknown[0], sorted(present))} Styles that are installed: "
            f"{', '.join(sorted(present))}. Others: icl data drawings"
        )
    return [one for one in drawings if one.style in styles]


def public_facts(drawing: DrawingRecord) -> Mapping[str, str]:
    """The facts that a sample stores: the style, and who made the drawing (for the leakage audit)."""
    return {"style": drawing.style, "source": drawing.source}


class DemoSources:
    """Base class of tasks with drawings. Their samples record who made the drawings."""

    def facts(self, demos: Sequence[Example]) -> Mapping[str, list[str]]:
        """Who made each demonstration's drawings, for the leakage audit."""
        return {"demo_sources": [str(demo.meta["source"]) for demo in demos]}
