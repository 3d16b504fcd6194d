"""MIMIC-IT (Li et al., 2306.05425): instructions with related instructions as demonstrations, from the released files.

A file `XX_instructions.json` has under `data` for each id: `instruction`, `answer`, `image_ids`, and in `rel_ins_ids`
the ids of its in-context examples. The pool of a query is these examples, in the order of the file. The images are in
`XX.json`, base64 by id, or in a folder as `ID.png`, `ID.jpg` or `ID.jpeg`. Use it as `tune.task` with the composer
`{name: template, path: otter}`, and as `task` with instructions that were not trained on.

An instruction without related ones has no demonstrations and is left out. A plan and a run say how many.

Differs from the released code in the demonstrations: it draws some of the related instructions, and the retriever of
the experiment chooses them here.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icl import DataError, Example, Image, SeveralPoolsTask, component, limited_choice
from icl.tasks.base import LimitedTask
from icl.tasks.cell_values import RelativePaths, read_text

KEYS = ("instruction", "answer", "image_ids", "rel_ins_ids")
LISTS = ("image_ids", "rel_ins_ids")
SUFFIXES = (".png", ".jpg", ".jpeg")
Row = Mapping[str, Any]


@component("task", "mimic_it")
@dataclass(frozen=True)
class MimicItTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """MIMIC-IT's instructions, each with its related instructions as pool."""

    path: str  # XX_instructions.json of the release
    images: str  # XX.json of the release, or a folder with an image for each id

    @property
    def title(self) -> str:
        return f"MIMIC-IT {Path(self.path).stem.removesuffix('_instructions')}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        names = [name for name, row in self._rows.items() if row["rel_ins_ids"]]
        if not names:
            raise DataError(
                f"none of the {len(self._rows):,} instructions of {self.path} has related ones, so none can be a query "
                "with demonstrations. Give a file with ids in 'rel_ins_ids'."
            )
        whole = f"instructions with related ones in {self.path}"
        chosen = limited_choice(names, self.query_limit, self.seed, "mimic_it", key="queries", whole=whole)
        return tuple(self._example(names[i]) for i in chosen)

    def pool_key(self, query_id: str) -> str | None:
        return query_id if query_id in self._rows else None

    @property
    def pool_size(self) -> int:
        return min(len(self._rows[query.id]["rel_ins_ids"]) for query in self.queries)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data that a plan and a run print."""
        alone = sum(not row["rel_ins_ids"] for row in self._rows.values())
        total = f"{alone:,} of {len(self._rows):,} instructions of {self.path}"
        return (f"{total} are no queries: they have no related instructions.",) if alone else ()

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        return tuple(self._example(name) for name in self._rows[key]["rel_ins_ids"])

    def _example(self, name: str) -> Example:
        row = self._rows[name]
        images = tuple(self._image(name, str(image)) for image in row["image_ids"])
        return Example(name, images, row["instruction"], (row["answer"],))

    def _image(self, name: str, image: str) -> Image:
        origin = f"MIMIC-IT {image}"
        if self._folder is not None:
            places = [self._folder / f"{image}{suffix}" for suffix in SUFFIXES]
            return Image.from_path(next((place for place in places if place.exists()), places[0]), origin)
        if image not in self._encoded:
            raise DataError(f"{self.images} has no image '{image}', which the instruction '{name}' shows.")
        try:
            return Image.from_bytes(base64.b64decode(self._encoded[image], validate=True), origin)
        except (binascii.Error, TypeError, ValueError) as error:
            raise DataError(f"{self.images}: the image '{image}' is not base64: {error}.") from error

    @cached_property
    def _folder(self) -> Path | None:
        place = self._place(self.images)
        return place if place.is_dir() else None

    @cached_property
    def _encoded(self) -> Mapping[str, str]:
        return _read(self._place(self.images))

    @cached_property
    def _rows(self) -> Mapping[str, Row]:
        """The instructions by id."""
        content = _read(self._place(self.path))
        rows = content.get("data")
        if not isinstance(rows, dict):
            raise DataError(f"{self.path} has no mapping 'data' of instructions. Give XX_instructions.json.")
        for name, row in rows.items():
            missing = [key for key in KEYS if not isinstance(row, dict) or key not in row]
            if missing:
                raise DataError(
                    f"{self.path}: the instruction '{name}' has no '{missing[0]}'. It needs {', '.join(KEYS)}."
                )
            for key in KEYS:
                values = row[key] if key in LISTS else [row[key]]
                if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                    what = "a list of ids" if key in LISTS else "a text"
                    raise DataError(f"{self.path}: '{key}' of the instruction '{name}' is not {what}.")
            if unknown := [one for one in row["rel_ins_ids"] if one not in rows]:
                raise DataError(
                    f"{self.path}: the instruction '{name}' is related to '{unknown[0]}', which the file does not have."
                )
        return rows


def _read(path: Path) -> dict[str, Any]:
    advice = "The data set is pufanyi/MIMICIT on the Hugging Face hub; give the paths of its JSON files."
    try:
        content = json.loads(read_text(path, "MIMIC-IT", advice))
    except ValueError as error:
        raise DataError(f"MIMIC-IT: {path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"MIMIC-IT: {path} is not a JSON mapping.")
    return content
