"""AMBER (Wang et al., 2311.07397) from the released files: queries, and truths in a file of their own.

    generative        "Describe this image." Metrics: amber_chair, amber_cover, amber_hal, amber_cog
    discriminative    yes/no questions. "no" is the positive class. Metrics: lenient, {name: precision, positive: "no"},
                      {name: recall, positive: "no"}, {name: f1, positive: "no"}

`path` is the folder `data` of the release, with `query`, `annotations.json`, `relation.json` and `safe_words.txt`. The
images are downloaded apart from it. The objects that an image shows are the accepted answers of its description, and
demonstrations list them.

The released metrics also take words for the same object whose vectors of spaCy's en_core_web_lg have a cosine above .8.
`similar: similar.json` does so. This writes the file in the folder `data`, as word -> words:

    import json, spacy

    related = json.load(open("relation.json"))
    words = {*related, *sum(related.values(), [])}
    read = list(map(spacy.load("en_core_web_lg"), words))
    similar = {a.text: [b.text for b in read if a.similarity(b) > 0.8]
               for a in read}
    json.dump(similar, open("similar.json", "w"))

Differs from the released code in the pool: half of the images by default are demonstrations, which AMBER does not have.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from icl import DataError, Example, Fraction, Image, Pool, SharedPoolTask, component, later_parameter, limited_choice
from icl.tasks import RelativePaths, divide_by_group
from icl.tasks.base import LimitedTask

Part = Literal["generative", "discriminative", "existence", "attribute", "relation"]
FILES: Mapping[Part, str] = {
    "generative": "query_generative.json",
    "discriminative": "query_discriminative.json",
    **{part: f"query_discriminative-{part}.json" for part in ("existence", "attribute", "relation")},
}
Row = Mapping[str, Any]


@component("task", "amber")
@dataclass(frozen=True, kw_only=True)
class AmberTask(SharedPoolTask, RelativePaths, LimitedTask):
    """AMBER's descriptions of images, or its yes/no questions about them."""

    path: str  # folder `data` of the release
    images: str = "../image"  # folder of the images, relative to `path`
    part: Part = "discriminative"  # which queries: descriptions, all yes/no questions, or those of one dimension
    pool_fraction: Fraction = 0.5  # share of the images whose queries become the pool
    similar: str | None = later_parameter(None)  # JSON file of near synonyms, relative to `path`; None: none count

    @property
    def title(self) -> str:
        return f"AMBER {self.part}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = [self._rows[i] for i in self._divided[0]]
        ids, whole = [str(row["id"]) for row in rows], f"queries of {self.title}"
        chosen = limited_choice(ids, self.query_limit, self.seed, "amber", key="queries", whole=whole)
        return tuple(self._example(rows[i]) for i in chosen)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._example(self._rows[i]) for i in self._divided[1]))

    @cached_property
    def _divided(self) -> tuple[list[int], list[int]]:
        groups = [str(row["image"]) for row in self._rows]
        return divide_by_group(groups, self.pool_fraction, self.seed, "amber/division", self.title)

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.path)

    @cached_property
    def _rows(self) -> Sequence[Row]:
        return _rows_of(self._folder / "query" / FILES[self.part], ("id", "image", "query"))

    @cached_property
    def _truths(self) -> Mapping[Any, Row]:
        """Id of a query -> its type and truth."""
        rows = _rows_of(self._folder / "annotations.json", ("id", "type", "truth"))
        return {row["id"]: row for row in rows}

    @cached_property
    def _words(self) -> Mapping[str, Any]:
        """`related`: object -> other words for it; `words`: all that count; `safe`: words that are always right;
        `similar`: word -> its near synonyms.
        """
        related: Mapping[str, list[str]] = _read(self._folder / "relation.json", dict)
        safe = _text(self._folder / "safe_words.txt").split("\n")
        words = frozenset((*related, *(word for some in related.values() for word in some)))
        near: Mapping[str, Any] = {} if self.similar is None else _read(self._folder / self.similar, dict)
        if odd := [word for word, others in near.items() if type(others) is not list or set(map(type, others)) - {str}]:
            raise DataError(f"AMBER: similar: {self.similar}: the value of '{odd[0]}' is not a list of words.")
        return {
            "related": related,
            "words": words,
            "safe": frozenset(word.strip() for word in safe if word.strip()),
            "similar": {word: frozenset(others) for word, others in near.items()},
        }

    def _example(self, row: Row) -> Example:
        name, annotations = str(row["image"]), self._folder / "annotations.json"
        annotation = self._truths.get(row["id"])
        if annotation is None:
            raise DataError(f"AMBER: {annotations} has no truth of query {row['id']}. Take both files of one release.")
        is_open, truth = self.part == "generative", annotation["truth"]
        if not isinstance(truth, list if is_open else str) or not truth:
            kind = "a list of objects" if is_open else "yes or no"
            raise DataError(f"AMBER: {annotations}: the truth of query {row['id']} is {truth!r:.40}, not {kind}.")
        secret = {**self._words, "truth": truth, "hallu": list(annotation.get("hallu", ()))}
        objects = [truth] if isinstance(truth, str) else [str(name) for name in dict.fromkeys(truth)]
        return Example(
            id=f"amber-{row['id']}",
            images=(Image.from_path(self._folder / self.images / name, f"AMBER {name}"),),
            question=str(row["query"]),
            answers=(", ".join(objects),),
            options=() if is_open else ("yes", "no"),
            label=None if is_open else objects[0],
            domain=str(annotation["type"]),
            group=name,
            meta={"type": str(annotation["type"])},
            secret={"amber": secret} if is_open else {},
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"AMBER: {path} cannot be read ({error}). `path` is the folder data of github.com/junyangwang0410/AMBER."
        ) from error


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"AMBER: {path} is not JSON: {error}.") from error
    if not isinstance(content, kind):
        raise DataError(f"AMBER: {path} is not a JSON {'object' if kind is dict else 'list'}.")
    return content


def _rows_of(path: Path, keys: Sequence[str]) -> Sequence[Row]:
    rows: Sequence[Row] = _read(path, list)
    for place, row in enumerate(rows):
        if missing := [key for key in keys if not isinstance(row, dict) or key not in row]:
            raise DataError(f"AMBER: {path}: entry {place} has no '{missing[0]}'. An entry has {', '.join(keys)}.")
    return rows
