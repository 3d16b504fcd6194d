"""Any data set: a hub id or local data, with a column map written in the config.

    task:
      name: hub
      path: lmms-lab/POPE
      split: test
      columns: {question: question, image: image, answer: answer, meta: [category]}
      options: ["yes", "no"]
      queries: 3000

`path` may be a hub id, a folder written by `save_to_disk`, a folder of parquet files or JSON lines, an image folder
(one folder a class: `columns: {image: image, answer: label}, question: "What is this?"`), or one file. Images are
embedded, or named by paths that start from the data's folder: in a column, or `image: "images/{image}.jpg"`.

`preset: pope` stands for the columns of a published data set (the presets below); what is written beside it counts
first. A preset is one file of `icl/tasks/presets/`: the keys of this task, and which metrics are its own.

With `pool_split` (or `pool_path`) the pool is other data. Without, the one split is divided, so that queries and
demonstrations share no group. A fixed draw assigns the fraction `pool_fraction` of the groups to the pool.
A group is what `columns.group` says, or else all rows that are connected by a common image (same path or same encoded
bytes); it is the group of the queries too, by which intervals are clustered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, ClassVar

from icl.constraints import Fraction, PositiveInt
from icl.errors import ConfigError, DataError
from icl.registry import component, parameter
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.tasks.cell_values import text_of
from icl.tasks.columns import AnswerIs, ColumnMapping, read_examples, row_image_keys
from icl.tasks.presets import PRESETS
from icl.tasks.source import DataSource, open_source
from icl.tasks.subset import nested_choice
from icl.types import Example

Text = str | bool | int | float


@component("task", "hub")
@dataclass(frozen=True, kw_only=True)
class HubTask:
    """Any data set of the hub or of this machine, by a column map: what is the question, the image, the answer.

    columns: question, image (one column or several; a cell holds one image or a list), answer (a text, a number, a
    class, or a list of accepted ones), options (a list, or several columns), id, label, group, domain (one column
    each), meta (columns that records carry along; never the gold).
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    path: str  # hub id, folder or file
    columns: Mapping[str, str | Sequence[str]]  # role -> column
    config: str | None = None  # configuration of a hub data set
    split: str = "test"  # of the queries
    pool_split: str | None = None  # of the pool; None: `split` is divided by group
    pool_path: str | None = None  # where the pool is other data; None: `path`
    pool_fraction: Fraction = 0.5  # of the groups of a divided split that become the pool
    question: str | None = None  # one text for all rows; {column} is filled in
    image: str | None = None  # the path of a row's image, likewise; it starts from the data's folder
    allow_outside: bool = False  # rows may name image files outside the folder of the data
    options: tuple[Text, ...] = ()  # the same for all rows
    answer_map: Mapping[Text, Text] | None = None  # value of the answer column -> answer; every value must be in it
    answer_is: AnswerIs = "text"  # index or letter: of an option (0 or A is the first); class: of a folder's name
    group_rows: PositiveInt | None = None  # so many rows that follow one another are a group, where no column says so
    whole_groups: bool = False  # `queries` takes groups whole, as scores of pairs need them, and never more rows
    query_limit: PositiveInt | None = parameter("queries", None)  # a nested choice of the rows; None: all
    support_limit: PositiveInt | None = parameter("pool_size", None)  # likewise of the pool
    seed: int = 0  # of choices and division; the seeds of a run do not change them

    def __post_init__(self) -> None:
        _ = self._layout
        if self.pool_split == self.split and self.pool_path in (None, self.path):
            raise ConfigError(
                f"pool_split '{self.pool_split}' is the split of the queries. Leave it out to divide it by group."
            )

    @property
    def title(self) -> str:
        return PurePath(self.path).name

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = self._divided[0] if self._one_split else range(len(self._source))
        if self.whole_groups and self.query_limit is not None:
            chosen = self._whole(list(rows), self.query_limit)
        else:
            chosen = self._choice(self._source, rows, self.query_limit, "queries")
        examples = self._read(self._source, chosen, self._ids(self._source, self.split, False))
        if self.group_rows:
            first = [row - row % self.group_rows for row in chosen]
            return tuple(replace(e, group=f"rows from {row}") for e, row in zip(examples, first, strict=True))
        if self._layout.of("group") or not (self._layout.of("image") or self.image):
            return examples
        first = connected_components(row_image_keys(self._source, self._layout, chosen))
        return tuple(replace(e, group=f"image of {examples[i].id}") for e, i in zip(examples, first, strict=True))

    @cached_property
    def _pool(self) -> Pool:
        if self._one_split:
            source, rows = self._source, list(self._divided[1])
        else:
            source = self._opened(self.pool_path or self.path, self.pool_split or self.split)
            rows = list(range(len(source)))
        chosen = self._choice(source, rows, self.support_limit, "pool")
        return Pool(self._read(source, chosen, self._ids(source, self.pool_split or self.split, not self._one_split)))

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return len(self._pool)

    @cached_property
    def _layout(self) -> ColumnMapping:
        mapped = self.answer_map
        return ColumnMapping(
            self.columns,
            self.question,
            tuple(text_of(option) for option in self.options),
            None if mapped is None else {text_of(key): text_of(value) for key, value in mapped.items()},
            self.answer_is,
            self.image,
        )

    @property
    def _one_split(self) -> bool:
        return self.pool_split is None and self.pool_path is None

    @cached_property
    def _source(self) -> DataSource:
        return self._opened(self.path, self.split)

    def _opened(self, path: str, split: str) -> DataSource:
        source = open_source(path, self.config, split, self.allow_outside)
        self._layout.check(source)
        return source

    def _ids(self, source: DataSource, split: str, prefixed: bool) -> list[str]:
        """The ids of all rows: the id column's, or split and number. A pool of its own has its split before them."""
        columns = self._layout.of("id")
        if not columns:
            name = f"pool-{split}" if prefixed and split == self.split else split
            return [f"{name}-{row:06d}" for row in range(len(source))]
        ids = [text_of(value) for value in source.data[columns[0]]]
        row_of: dict[str, int] = {}
        for row, name in enumerate(ids):
            if name in row_of:
                raise DataError(
                    f"{source.name}: rows {row_of[name]} and {row} have the id '{name}'. Ids must be unique."
                )
            row_of[name] = row
        return [f"pool-{name}" for name in ids] if prefixed else ids

    def _choice(self, source: DataSource, rows: Sequence[int], limit: int | None, factor: str) -> list[int]:
        if limit is not None and limit > len(rows):
            key = {"queries": "queries", "pool": "pool_size"}[factor]
            raise DataError(
                f"{key}: {limit} is more than the {len(rows)} rows that {source.name} has for it. Ask for fewer, or "
                f"leave {key} out to take them all."
            )
        chosen = nested_choice([f"row-{row}" for row in rows], limit, self.seed, f"hub/{factor}")
        return [rows[i] for i in chosen]

    def _whole(self, rows: Sequence[int], limit: int) -> list[int]:
        """A nested choice of groups, each with all its rows, as long as they are at most so many rows together."""
        groups = self._groups()
        members: dict[str, list[int]] = {}
        for row in rows:
            members.setdefault(groups[row], []).append(row)
        names, chosen = list(members), list[int]()
        for i in nested_choice(names, len(names), self.seed, "hub/groups"):
            if len(chosen) + len(members[names[i]]) > limit:
                break
            chosen += members[names[i]]
        if not chosen:
            raise DataError(f"queries: {limit} is less than one group of {self._source.name} has rows. Ask for more.")
        return chosen

    def _read(self, source: DataSource, rows: Sequence[int], ids: Sequence[str]) -> tuple[Example, ...]:
        return tuple(read_examples(source, self._layout, rows, [ids[row] for row in rows]))

    @cached_property
    def _divided(self) -> tuple[list[int], list[int]]:
        """Rows of the queries and rows of the pool."""
        groups = self._groups()
        names = sorted(set(groups), key=lambda name: StreamKey(self.seed, name).number("hub/division"))
        support = set(names[: round(self.pool_fraction * len(names))])
        queries = [row for row, name in enumerate(groups) if name not in support]
        pool = [row for row, name in enumerate(groups) if name in support]
        if not queries or (not pool and self.pool_fraction > 0):
            raise DataError(
                f"{self._source.name} has {len(names)} groups, too few to give both queries and a pool with "
                f"pool_fraction {self.pool_fraction}. Name a pool_split, or another share."
            )
        return queries, pool

    def _groups(self) -> list[str]:
        """The group of every row of the queries' split."""
        columns = self._layout.of("group")
        if self.group_rows:
            return [f"row {row - row % self.group_rows}" for row in range(len(self._source))]
        if columns:
            values: list[Any] = list(self._source.data[columns[0]])
            return [f"row {row}" if value is None else text_of(value) for row, value in enumerate(values)]
        first = connected_components(row_image_keys(self._source, self._layout, range(len(self._source))))
        return [f"row {row}" for row in first]


def connected_components(keys: Sequence[Sequence[str]]) -> list[int]:
    """For each row the first one that it shares a key with, directly or through others; else itself."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, some in enumerate(keys):
        for key in some:
            a, b = root(first.setdefault(key, row)), root(row)
            parent[max(a, b)] = min(a, b)
    return [root(row) for row in range(len(keys))]
