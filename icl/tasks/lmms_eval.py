"""A task of lmms-eval with demonstrations: by the name of an installed task, or by your own YAML file.

    task: {name: lmms_eval, task: mme, trust: true}
    metrics: [lenient, {name: lmms_eval_aggregate, task: mme, metric: mme_perception_score, trust: true}]

Questions, images, options and answers come from the task's own functions. These are code of others: the file is
first read without running anything, and a task that names code is refused without `trust: true`. The digest of its
files is a part of each cell, so edited code is another task.

lmms-eval evaluates the test split, or the validation split. Demonstrations come from its few-shot or training split, or
from a validation split if there is a test split. Most tasks have one split only. It is then divided, as `hub` does, so
that no image is on both sides: fewer queries are left. `pool_fraction: 0` keeps all of them for runs without
demonstrations; the scores then equal lmms-eval's. `max_new_tokens` of the task is the default of the run. The
experiment file sets the other parameters of generation; `icl plan` names the ones that differ.

The metrics `lmms_eval` and `lmms_eval_aggregate` are the task's own scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from icl import PIL, SEARCH_FOLDERS, ConfigError, Example, Image, Pool, SharedPoolTask, datasets, limited_choice
from icl.harness.loaded_task import LoadedTask, TaskDocument, check_kind, load_task
from icl.harness.task_file import TaskFile, find_task_file
from icl.registry import Fraction, PositiveInt, component, parameter
from icl.tasks import DataSource, connected_components, divide_by_group, encoded, image_keys
from icl.tasks.base import LimitedTask

GREEDY: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "temperature": (0,),
    "top_k": (1, None),
    "top_p": (1, None),
}
"""Settings of generation -> the values that mean greedy decoding."""


@component("task", "lmms_eval")
@dataclass(frozen=True, kw_only=True)
class LmmsEvalTask(SharedPoolTask, LimitedTask):
    """A task of lmms-eval, by its name or its YAML file, with a pool of demonstrations."""

    task: str  # name of an installed task, such as mme, or the path of a YAML file
    trust: bool = False  # whether the task's functions and templates, which are code of others, may run
    split: str | None = None  # split of the queries; None: the task's test split, else its validation split
    pool_split: str | None = None  # split of the pool; None: the task's own, else the queries' split is divided
    pool_fraction: Fraction = 0.5  # share of the groups of a divided split that become the pool
    specific_kwargs: str = "default"  # model name whose `lmms_eval_specific_kwargs` (such as prompts) are used
    messages: bool = True  # whether `doc_to_messages` counts, where a task has it
    meta: tuple[str, ...] = ()  # columns to store with each sample, such as category; never the gold
    files: str | None = None  # digest of the task's files; None: that of the files as they are
    support_limit: PositiveInt | None = parameter("pool_size", None)  # number of pool examples, nested; None: all

    def __post_init__(self) -> None:
        file = self._file
        file.check_trust(self.trust)
        check_kind(file)
        digest = file.digest
        if self.files not in (None, digest):
            raise ConfigError(
                f"the files of {file.path} have the digest {digest}, not {self.files}: they were edited. Set "
                "files to this digest, or remove it."
            )
        object.__setattr__(self, "files", digest)

    @property
    def title(self) -> str:
        return self._file.title

    @property
    def max_new_tokens(self) -> int | None:
        """The length limit of the task, which is the default of a run."""
        limit = self._generation.get("max_new_tokens")
        return int(limit) if isinstance(limit, int | float) and limit > 0 else None

    @property
    def warning(self) -> str:
        """What lmms-eval would do with this task and a run does not, '' for nothing."""
        settings = {key: value for key, value in self._generation.items() if key != "max_new_tokens"}
        other = {key: value for key, value in settings.items() if value not in GREEDY.get(key, ())}
        if (repeats := self._file.keys.get("repeats", 1)) != 1:
            other["repeats"] = repeats
        warnings = []
        if other:
            text = ", ".join(f"{key} {value!r}" for key, value in other.items())
            warnings.append(
                f"{self.title} sets {text}: a run takes them from decoding, stop_strings and seeds instead."
            )
        if self._file.keys.get("output_type") == "multiple_choice":
            warnings.append(f"{self.title} scores its options: its metrics need answer_mode: options.")
        return " ".join(warnings)

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = self._divided[0]
        chosen = self._choice(self._query_split, rows, self.query_limit, "queries")
        examples = self._examples(self._query_split, chosen)
        if not self._image_columns:
            return examples
        return tuple(self._grouped(examples, chosen))

    @cached_property
    def _pool(self) -> Pool:
        split = self._pool_split or self._query_split
        rows = list(range(len(self._loaded.rows(split)))) if self._pool_split else self._divided[1]
        return Pool(self._examples(split, self._choice(split, rows, self.support_limit, "pool")))

    @cached_property
    def _file(self) -> TaskFile:
        return find_task_file(self.task, SEARCH_FOLDERS.get())

    @property
    def _generation(self) -> Mapping[str, Any]:
        return self._file.keys.get("generation_kwargs") or {}

    @cached_property
    def _loaded(self) -> LoadedTask:
        return load_task(self._file, self.specific_kwargs, self.trust)

    @property
    def _query_split(self) -> str:
        return self.split or self._loaded.query_split

    @property
    def _pool_split(self) -> str | None:
        """The split of the pool, None if that of the queries is divided."""
        split = self.pool_split or self._loaded.pool_split
        return None if split == self._query_split else split

    @cached_property
    def _divided(self) -> tuple[list[int], list[int]]:
        """Rows of the queries, and rows of the pool if their split is divided."""
        count = len(self._loaded.rows(self._query_split))
        if self._pool_split:
            return list(range(count)), []
        groups = [f"row {first}" for first in self._first_rows(range(count))]
        name = f"{self.title}[{self._query_split}]"
        return divide_by_group(groups, self.pool_fraction, self.seed, "lmms_eval/division", name)

    @cached_property
    def _image_columns(self) -> tuple[str, ...]:
        features = self._loaded.rows(self._query_split).features
        return tuple(
            name
            for name, feature in features.items()
            if isinstance(feature, datasets.Image)
            or isinstance(getattr(feature, "feature", None), datasets.Image)
            or (isinstance(feature, list) and isinstance(feature[0], datasets.Image))
        )

    def _first_rows(self, rows: Sequence[int]) -> list[int]:
        """For each of these rows, the place of the first that it shares an image with, directly or through others."""
        data = encoded(self._loaded.rows(self._query_split))
        return connected_components(image_keys(DataSource(data, self.title, None), self._image_columns, rows))

    def _grouped(self, examples: Sequence[Example], rows: Sequence[int]) -> list[Example]:
        first = self._first_rows(rows)
        return [replace(e, group=f"image of {examples[i].id}") for e, i in zip(examples, first, strict=True)]

    def _choice(self, split: str, rows: Sequence[int], limit: int | None, factor: str) -> list[int]:
        key, whole = {"queries": "queries", "pool": "pool_size"}[factor], f"available rows of {self.title}[{split}]"
        ids = [_id(split, row) for row in rows]
        return [rows[i] for i in limited_choice(ids, limit, self.seed, f"lmms/{factor}", key=key, whole=whole)]

    def _examples(self, split: str, rows: Sequence[int]) -> tuple[Example, ...]:
        columns = self._loaded.rows(split).column_names
        for column in self.meta:
            if column not in columns:
                raise ConfigError(f"meta: {self.title} has no column '{column}'. It has: {', '.join(columns)}.")
            if column == self._file.keys.get("doc_to_target"):
                raise ConfigError(f"meta: the column '{column}' is the gold answer, which must not be in meta.")
        return tuple(self._example(self._loaded.document(split, row)) for row in rows)

    def _example(self, document: TaskDocument) -> Example:
        by_messages = self.messages and "doc_to_messages" in self._file.keys
        images, question = document.messages() if by_messages else (document.images(), document.text())
        options = document.options()
        answers = document.answers(options)
        return Example(
            id=_id(document.split, document.row),
            images=tuple(
                Image.from_source(DocumentImage(document, place, by_messages), f"{document.where}, image {place}")
                for place in range(len(images))
            ),
            question=question,
            answers=answers,
            options=options,
            label=answers[0] if options else None,
            meta={"doc_id": document.row, **{column: document.content[column] for column in self.meta}},
            secret={"lmms_eval": document, "gold": answers},
        )


@dataclass(frozen=True)
class DocumentImage:
    """A loader of one image of a row."""

    document: TaskDocument
    place: int
    by_messages: bool

    def __call__(self) -> "PIL.Image.Image":
        return (self.document.messages()[0] if self.by_messages else self.document.images())[self.place]


def _id(split: str, row: int) -> str:
    return f"{split}-{row:06d}"
