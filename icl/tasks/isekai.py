"""ISEKAI of Link-Context Learning (Tai et al., CVPR 2024): unseen concepts under their names, next to a similar one.

A line of the released file has an image to ask about (`image_name`, `label_name`), and images of two classes
(`positive_list` with `positive_promt`, `negative_list` with `negative_promt`; the keys are spelled so). Each query has
its own pool: a shot is one image of each class, in a random order within the shot. Use an even number of shots, the
composer `{name: template, path: link_context}` and the metric `link_context` (the released rule) or `lenient`.

Differs from the released code in the order: it shuffles all demonstrations together. Tuning is not part of this task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icl import DataError, Example, Image, StreamKey, component
from icl.tasks.base import LimitedTask, SeveralPoolsTask, limited_choice
from icl.tasks.cell_values import RelativePaths, read_json_lines
from icl.tasks.generated.episode import shuffled

KEYS = ("image_name", "label_name", "positive_list", "positive_promt", "negative_list", "negative_promt")
QUESTION = "What is in the image?"
ADVICE = "The data sets ISEKAI-10 and ISEKAI-pair are on the Hugging Face hub; give the path of their JSON lines."
Row = Mapping[str, Any]


@component("task", "isekai")
@dataclass(frozen=True)
class IsekaiTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """ISEKAI-10 or ISEKAI-pair from its released JSON lines and images, with a pool of two classes for each query."""

    path: str  # JSON lines of the release
    images: str  # folder with the images that the lines name

    @property
    def title(self) -> str:
        return f"ISEKAI {Path(self.path).stem}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        numbers, rows = [str(i) for i in range(len(self._rows))], list(self._rows.items())
        chosen = limited_choice(numbers, self.query_limit, self.seed, "isekai", key="queries", whole=f"of {self.path}")
        return tuple(
            self._example(name, row, row["image_name"], row["label_name"]) for name, row in (rows[i] for i in chosen)
        )

    def pool_key(self, query_id: str) -> str | None:
        return query_id if query_id in self._rows else None

    @cached_property
    def _rows(self) -> Mapping[str, Row]:
        """The lines by the ids of their queries."""
        rows = read_json_lines(self._place(self.path), KEYS, "ISEKAI", ADVICE)
        return {f"isekai-{i:05d}": row for i, row in enumerate(rows)}

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.images)

    @property
    def pool_size(self) -> int:
        return min(len(self.pool(query.id)) for query in self.queries)

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        """One image of each class for each shot, in a random order."""
        row = self._rows[key]
        pairs = zip(row["positive_list"], row["negative_list"], strict=False)
        return tuple(
            self._example(f"{key}-s{shot}{k}", row, image, name)
            for shot, (positive, negative) in enumerate(pairs)
            for k, (image, name) in enumerate(
                shuffled(
                    StreamKey(self.seed, key).numpy(f"order/{shot}"),
                    [(positive, row["positive_promt"]), (negative, row["negative_promt"])],
                )
            )
        )

    def _example(self, name: str, row: Row, image: str, label: str) -> Example:
        options = tuple(dict.fromkeys((row["positive_promt"], row["negative_promt"])))
        if label not in options:
            raise DataError(f"{self.path}: '{name}' has the label '{label}', which is neither of {', '.join(options)}.")
        return Example(
            id=name,
            images=(Image.from_path(self._folder / image, f"ISEKAI {image}"),),
            question=QUESTION,
            answers=(label,),
            options=tuple(sorted(options)),
            label=label,
        )
