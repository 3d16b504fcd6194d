"""ISEKAI of Link-Context Learning (Tai et al., CVPR 2024): unseen concepts under their names, next to a similar one.

A line of the released file has an image to ask about (`image_name`, `label_name`), and images of two classes
(`positive_list` with `positive_promt`, `negative_list` with `negative_promt`; the keys are spelled so). Each query has
its own pool: a shot is one image of each class, in a random order within the shot. Use an even number of shots, the
composer `{name: template, preset: link_context}` and the metric `link_context` (the released rule) or `lenient`.

Differs from the released code in the order: it shuffles all demonstrations together. Tuning is not part of this task.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from icl.constraints import PositiveInt
from icl.errors import DataError
from icl.images import Image
from icl.registry import component, parameter
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.tasks.generated.episode import shuffled
from icl.tasks.relative_paths import RelativePaths
from icl.tasks.subset import nested_choice
from icl.types import Example

KEYS = ("image_name", "label_name", "positive_list", "positive_promt", "negative_list", "negative_promt")
QUESTION = "What is in the image?"
Row = Mapping[str, Any]


@component("task", "isekai")
@dataclass(frozen=True)
class IsekaiTask(RelativePaths):
    """ISEKAI-10 or ISEKAI-pair from its released JSON lines and images, with a pool of two classes for each query."""

    path: str  # JSON lines of the release
    images: str  # folder with the images that the lines name
    query_limit: PositiveInt | None = parameter("queries", None)  # number of queries, a nested choice; None: all
    seed: int = 0  # random seed of choices and orders, independent of the seeds of a run

    @property
    def title(self) -> str:
        return f"ISEKAI {Path(self.path).stem}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = _rows(self._place(self.path))
        if self.query_limit is not None and self.query_limit > len(rows):
            raise DataError(f"queries: {self.query_limit} is more than the {len(rows)} of {self.path}.")
        chosen = nested_choice([str(i) for i in range(len(rows))], self.query_limit, self.seed, "isekai")
        return tuple(
            self._example(f"isekai-{i:05d}", rows[i], rows[i]["image_name"], rows[i]["label_name"]) for i in chosen
        )

    def pool(self, query_id: str) -> Pool:
        if query_id not in {query.id for query in self.queries}:
            raise DataError(f"task '{self.title}' has no query '{query_id}'.")
        return _pool(self, query_id)

    @property
    def pool_size(self) -> int:
        return min(len(self.pool(query.id)) for query in self.queries)

    def supports(self, query_id: str) -> Sequence[Example]:
        """One image of each class for each shot, in a random order."""
        row = _rows(self._place(self.path))[int(query_id.rpartition("-")[2])]
        pairs = zip(row["positive_list"], row["negative_list"], strict=False)
        return [
            self._example(f"{query_id}-s{shot}{k}", row, image, name)
            for shot, (positive, negative) in enumerate(pairs)
            for k, (image, name) in enumerate(
                shuffled(
                    StreamKey(self.seed, query_id).numpy(f"order/{shot}"),
                    [(positive, row["positive_promt"]), (negative, row["negative_promt"])],
                )
            )
        ]

    def _example(self, name: str, row: Row, image: str, label: str) -> Example:
        path = self._place(self.images) / image
        options = tuple(dict.fromkeys((row["positive_promt"], row["negative_promt"])))
        if label not in options:
            raise DataError(f"{self.path}: '{name}' has the label '{label}', which is neither of {', '.join(options)}.")
        return Example(
            id=name,
            images=(Image.from_path(path, f"ISEKAI {image}"),),
            question=QUESTION,
            answers=(label,),
            options=tuple(sorted(options)),
            label=label,
        )


@lru_cache(maxsize=512)
def _pool(task: IsekaiTask, query_id: str) -> Pool:
    return Pool(tuple(task.supports(query_id)))


@lru_cache(maxsize=16)
def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(
            f"ISEKAI: {path} cannot be read ({error.strerror}). The data sets ISEKAI-10 and ISEKAI-pair are on the "
            "Hugging Face hub; give the path of their JSON lines."
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"ISEKAI: {path}:{number} is not JSON: {error}.") from error
        missing = [key for key in KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise DataError(f"ISEKAI: {path}:{number} has no '{missing[0]}'. A line has {', '.join(KEYS)}.")
        rows.append(row)
    return rows
