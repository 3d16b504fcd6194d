"""Episodes from rows: the last row of each episode is a query, and the rows before it are its own demonstrations.

    task:
      name: episodes
      path: smmile/SMMILE-050525
      split: train
      episode: problem_id
      order: order
      columns: {question: question, image: image, answer: answer}

`preset: smmile` is this (SMMILE, Rieff et al., 2506.21355: medical questions with demonstrations by doctors). The pool
of a query is the rest of its episode. Any retriever takes `shots` of it, at most the size of the shortest episode.
Columns work as in the task `hub`.

An episode with a row whose image is missing is left out, as in SMMILE's released code. A plan and a run say how many.

SMMILE's multiple-choice form has the answers of an episode as options: `answers_as_options: true`. Its open form is
scored by exact match (`strict`) and by a language model, which is not here.

Differs from the released code in the number of demonstrations: it shows all of an episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from icl import DataError, Example, SeveralPoolsTask, did_you_mean, limited_choice
from icl.registry import component, later_parameter, renamed_values
from icl.tasks import ColumnMapping, DataSource, RelativePaths, former_id, open_source, read_examples, text_of
from icl.tasks.base import LimitedTask


@component("task", "episodes")
@dataclass(frozen=True, kw_only=True)
class EpisodesTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """Queries with demonstrations of their own, from rows that a column groups into episodes."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smmile": {
            "path": "smmile/SMMILE-050525",
            "split": "train",
            "episode": "problem_id",
            "order": "order",
            "columns": {"question": "question", "image": "image", "answer": "answer"},
        }
    }

    path: str = renamed_values(former_id)  # hub id, folder or file
    columns: Mapping[str, str | Sequence[str]]  # role -> column or columns, as in `hub`
    episode: str  # column with the name of the episode
    order: str | None = None  # column by which the rows of an episode are sorted; None: the order of the data
    config: str | None = None  # configuration of a hub data set
    revision: str | None = later_parameter(None)  # branch, tag or commit of a hub data set; None: the newest
    split: str | None = later_parameter(None, "test")  # split of the data; None: all rows of a file, or test
    answers_as_options: bool = False  # whether the different answers of an episode are the options of its query

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._layout

    @property
    def title(self) -> str:
        return Path(self.path).name

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        names = [name for name, rows in self._rows.items() if len(rows) > 1]
        whole = f"episodes of {self._source.name}"
        chosen = limited_choice(names, self.query_limit, self.seed, "episodes", key="queries", whole=whole)
        return tuple(self._episode(names[i])[-1] for i in chosen)

    def pool_key(self, query_id: str) -> str | None:
        name = query_id.removesuffix("-query")
        return name if name in self._rows else None

    @property
    def pool_size(self) -> int:
        return min(len(self._rows[query.id.removesuffix("-query")]) - 1 for query in self.queries)

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        return self._episode(key)[:-1]

    def _episode(self, name: str) -> tuple[Example, ...]:
        """The examples of an episode, the query last."""
        rows = self._rows[name]
        ids = [f"{name}-{place:02d}" for place in range(len(rows) - 1)] + [f"{name}-query"]
        examples = [replace(e, group=None) for e in read_examples(self._source, self._layout, rows, ids)]
        if self.answers_as_options:
            options = tuple(dict.fromkeys(example.answer for example in examples))
            examples = [replace(example, options=options) for example in examples]
        return tuple(examples)

    @cached_property
    def _layout(self) -> ColumnMapping:
        return ColumnMapping(self.columns)

    @cached_property
    def _source(self) -> DataSource:
        source = open_source(self.path, self.config, self.split, revision=self.revision, folders=self._folders)
        self._layout.check(source)
        for key, column in (("episode", self.episode), ("order", self.order)):
            if column is not None and column not in source.columns:
                raise DataError(
                    f"{key}: {source.name} has no column '{column}'.{did_you_mean(column, source.columns)} "
                    f"Columns: {', '.join(source.columns)}."
                )
        return source

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data that a plan and a run print."""
        left_out = list(self._incomplete)
        names = f"{len(left_out):,} of {len(self._rows) + len(left_out):,} episodes of {self._source.name}"
        note = f"{names} are left out: an image is missing, for example in '{left_out[0]}'." if left_out else ""
        return tuple(filter(None, (self._source.note, note)))

    @property
    def data_revision(self) -> str:
        """The id and commit of its data set of the hub."""
        return self._source.revision

    @cached_property
    def _incomplete(self) -> dict[str, None]:
        """The episodes with a row that has no image in any of its image columns."""
        columns, names = list(self._layout.of("image")), self._source.data[self.episode]
        images = self._source.data.select_columns(columns).with_format("arrow")[:] if columns else None
        filled = [images.column(name).is_valid().to_pylist() for name in columns] if images else []
        return {text_of(name): None for name, *row in zip(names, *filled, strict=True) if row and not any(row)}

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        """The rows of each complete episode, in order."""
        rows: dict[str, list[int]] = {}
        for row, value in enumerate(self._source.data[self.episode]):
            rows.setdefault(text_of(value), []).append(row)
        if self.order is not None:
            keys = list(self._source.data[self.order])
            rows = {name: sorted(own, key=keys.__getitem__) for name, own in rows.items()}
        return {name: own for name, own in rows.items() if name not in self._incomplete}
