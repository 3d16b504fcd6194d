"""Any data set from the hub or from local files, with a column map in the config.

    task:
      name: hub
      path: lmms-lab-encoder/POPE
      split: test
      columns: {question: question, image: image, answer: answer, meta: [category]}
      options: ["yes", "no"]
      queries: 3000

`path` may be a hub id, a folder of `save_to_disk`, a folder of parquet files or JSON lines, an image folder (one folder
for each class: `columns: {image: image, answer: label}, question: "What is this?"`), or one file. Local paths are
relative to the experiment file, else to the working directory. Images are embedded, or named by paths relative to the
data's folder: in a column, or by `image: "images/{image}.jpg"`.

`preset: pope` stands for the columns of a published data set. Keys next to it override the preset's. A preset is a file
of `icl/tasks/presets/` with the keys of this task and the names of its metrics.

`revision` is a branch, tag or commit of the hub, for `path`. A run stores the commit that was read, with or without it.

`split` and `pool_split` are splits of the source, or values of the column `split` of a file. A split that the source
does not have is an error. Without `split`, queries are all rows of a file, or the split `test` of other data.

`list_options` says how prompts list the options: `letters` ("A. red", and the answer is A), `texts` ("Options: red,
green."), or `none`. The default is letters for options of each row (`columns.options`), texts for `options`, and none
for yes and no, for the classes of `answer_is: class`, and where `question` names the columns of the options.

With `pool_split` or `pool_path`, the pool is other data. Otherwise the split is divided so that queries and
demonstrations share no group: a fixed draw assigns the fraction `pool_fraction` of the groups to the pool. A group is
the value of `columns.group`, or else all rows that are connected by a common image (same path or same encoded bytes).
It is also the group of the queries, by which intervals are clustered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from icl import LETTERED, ConfigError, DataError, Example, OptionListing, letter_problem
from icl.registry import Fraction, PositiveInt, component, later_parameter, parameter, renamed_values
from icl.tasks import PRESETS, RelativePaths, connected_components, divide_by_group, exchange_of, text_of
from icl.tasks.base import Pool, SharedPoolTask, limited_choice, nested_choice
from icl.tasks.columns import AnswerIs, ColumnMapping, group_name, read_examples, row_image_keys, short_columns
from icl.tasks.source import DEFAULT_SPLIT, DataSource, former_id, open_source

Text = str | bool | int | float
ListOptions = Literal["letters", "texts", "none"]
LISTINGS: Mapping[ListOptions, OptionListing | None] = {"letters": LETTERED, "texts": OptionListing(), "none": None}


@component("task", "hub")
@dataclass(frozen=True, kw_only=True)
class HubTask(SharedPoolTask, RelativePaths):
    """Any data set of the hub or of this machine, with a map from columns to question, image and answer.

    Roles of columns: question, hint (text before the question), image (one column or several; a cell holds one image or
    a list), box (four columns that cut the images: left, top, width, height), video (a path; frames are images), answer
    (a text, a number, a class, or a list of accepted ones), options (a list, or several columns), group (one column or
    several), id, label, domain (one column each), objects (a list of the COCO objects in the image, for CHAIR), meta
    (columns of lists or long texts to store with each sample, and columns that components read; never the gold). Other
    columns with one number or short text a row are stored too. Question and answer may be one column of conversations
    ({from, value} or {role, content}): the first question, without its marks <image>, and the first answer.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    path: str = renamed_values(former_id)  # hub id, folder or file
    columns: Mapping[str, str | Sequence[str]]  # role -> column or columns
    config: str | None = None  # configuration of a hub data set
    revision: str | None = later_parameter(None)  # branch, tag or commit of a hub data set; None: the newest
    split: str | None = later_parameter(None, "test")  # split of the queries; None: all rows of a file, or test
    pool_split: str | None = None  # split of the pool; None: `split` is divided by group
    pool_path: str | None = renamed_values(former_id, default=None)  # path of the pool's data; None: `path`
    pool_fraction: Fraction = 0.5  # share of the groups of a divided split that become the pool
    leave_one_out: bool = later_parameter(False)  # whether the pool is the split of the queries, undivided
    question: str | None = None  # question of all rows, with {column} placeholders
    image: str | None = None  # path of a row's image with {column} placeholders, relative to the data's folder
    allow_outside: bool = False  # whether rows may name image files outside the data's folder
    options: tuple[Text, ...] = ()  # options of all rows
    list_options: ListOptions | None = later_parameter(None, before="none")  # how prompts list options; None: see above
    answer_map: Mapping[Text, Text] | None = None  # value of the answer column -> answer; must contain every value
    answer_is: AnswerIs = "text"  # index or letter of an option (0 or A is the first); class: a folder's name; number
    decimals: Annotated[int, Ge(0), Le(9)] | None = later_parameter(None)  # of answers that are numbers; None: all
    group_rows: PositiveInt | None = None  # consecutive rows in a group, if no column names it
    whole_groups: bool = False  # whether `queries` keeps groups complete, for scores of pairs; never more rows
    query_limit: PositiveInt | None = parameter("queries", None)  # number of queries, nested; None: all
    support_limit: PositiveInt | None = parameter("pool_size", None)  # number of pool examples, nested; None: all
    frames: PositiveInt = later_parameter(6)  # number of frames of each video, the middles of equal parts
    seed: int = 0  # random seed of choices and division, independent of the seeds of a run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.list_options is None:
            object.__setattr__(self, "list_options", self._own_listing)
        _ = self._layout
        is_same_path = not self._one_split and self.pool_path in (None, self.path)
        if is_same_path and self.pool_split in (None, self._split):
            same = (
                "pool_path is also the data"
                if self.pool_split is None
                else f"pool_split '{self.pool_split}' is also the split"
            )
            raise ConfigError(
                f"{same} of the queries. Remove it to divide that split by group, or write leave_one_out: true in its "
                "place: each query then has all other rows as its pool."
            )
        if self.leave_one_out and not self._one_split:
            raise ConfigError("leave_one_out: the pool is the data of the queries. Remove pool_split and pool_path.")

    @property
    def _own_listing(self) -> ListOptions:
        """How options are listed if the config does not say it."""
        columns = self._columns.of("options")
        if columns:
            return "none" if set(columns) <= set(self._columns.placeholders) else "letters"
        return "texts" if set(map(str.lower, self._columns.options)) - {"yes", "no"} else "none"

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
        ids, more = self._ids(self._source, self._split, False), short_columns(self._source, self._layout)
        examples = self._read(self._source, chosen, ids, more)
        if self.group_rows:
            first = [row - row % self.group_rows for row in chosen]
            return tuple(replace(e, group=f"rows from {row}") for e, row in zip(examples, first, strict=True))
        if self._layout.of("group") or not (self._layout.of("image") or self._layout.of("video") or self.image):
            return examples
        first = connected_components(row_image_keys(self._source, self._layout, chosen))
        return tuple(replace(e, group=f"image of {examples[i].id}") for e, i in zip(examples, first, strict=True))

    @cached_property
    def _pool(self) -> Pool:
        split, source = self.pool_split or self._split, self._pool_source
        if self._one_split:
            rows = list(self._divided[1])
        else:
            rows = list(range(len(source)))
            if len(source) == len(self._source) and self._contents(source) == self._contents(self._source):
                raise DataError(
                    f"the pool {source.name} has the same rows as the queries {self._source.name}. Remove "
                    "pool_split and pool_path to divide them by group, or write leave_one_out: true in their place."
                )
        chosen = self._choice(source, rows, self.support_limit, "pool")
        return Pool(self._read(source, chosen, self._ids(source, split, not self._one_split)))

    @cached_property
    def _pool_source(self) -> DataSource:
        if self._one_split:
            return self._source
        source = self._opened(self.pool_path or self.path, self.pool_split, self._split)
        self._layout.check(source)
        return source

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data that a plan and a run print."""
        talks = {*self._layout.of("answer")} & {*self._layout.of("question")}
        exchanges = [exchange_of(cell) for name in talks for cell in self._source.data[name]]
        longer = sum(exchange is not None and exchange[2] for exchange in exchanges)
        turns = f"{longer:,} of {len(exchanges):,} conversations go on after the first answer. The rest is left out."
        return tuple(dict.fromkeys(filter(None, (self._source.note, self._pool_source.note, turns if longer else ""))))

    @property
    def data_revision(self) -> str:
        """The ids and commits of its data sets of the hub, such as "owner/name@commit"."""
        return ", ".join(dict.fromkeys(filter(None, (self._source.revision, self._pool_source.revision))))

    def read_rows(self) -> tuple[list[Example], list[str]]:
        """All rows of queries and pool that can be examples, and a sentence for each of the others."""
        read, problems = list[Example](), list[str]()
        for source in {id(one): one for one in (self._source, self._pool_source)}.values():
            ids = self._ids(source, self._split, False)
            read += read_examples(source, self._layout, range(len(source)), ids, problems=problems)
        of_letters = [letter_problem(example) for example in read]
        usable = [example for example, problem in zip(read, of_letters, strict=True) if not problem]
        return usable, [*problems, *filter(None, of_letters)]

    def _contents(self, source: DataSource) -> list[str]:
        """The rows of a source by questions, answers and images, in an order that is their own."""
        columns = {*self._layout.of("question"), *self._layout.of("answer"), *self._layout.placeholders}
        texts = source.data.select_columns(sorted(columns))
        images = row_image_keys(source, self._layout, range(len(source)))
        return sorted(repr((row, keys)) for row, keys in zip(texts, images, strict=True))

    @cached_property
    def _layout(self) -> ColumnMapping:
        return replace(self._columns, listing=LISTINGS[self.list_options or "none"])

    @cached_property
    def _columns(self) -> ColumnMapping:
        """The mapping without a listing of options."""
        mapped = self.answer_map
        return ColumnMapping(
            self.columns,
            self.question,
            tuple(text_of(option) for option in self.options),
            None if mapped is None else {text_of(key): text_of(value) for key, value in mapped.items()},
            self.answer_is,
            self.image,
            self.frames,
            decimals=self.decimals,
        )

    @property
    def _one_split(self) -> bool:
        return self.pool_split is None and self.pool_path is None

    @property
    def data_columns(self) -> list[str]:
        """All columns of the queries' data."""
        return self._unchecked_source.columns

    @property
    def named_columns(self) -> list[tuple[str, str]]:
        """The key and the name of each column that the task reads, whether the data has it or not."""
        return self._columns.named

    @property
    def _split(self) -> str:
        return self.split or DEFAULT_SPLIT

    @cached_property
    def _source(self) -> DataSource:
        self._layout.check(self._unchecked_source)
        return self._unchecked_source

    @cached_property
    def _unchecked_source(self) -> DataSource:
        is_named = self.split is not None or (self.pool_split is not None and self.pool_path is None)
        return self._opened(self.path, self._split if is_named else None, DEFAULT_SPLIT)

    def _opened(self, path: str, split: str | None, default_split: str) -> DataSource:
        return open_source(
            path,
            self.config,
            split,
            revision=self.revision if path == self.path else None,
            allow_outside=self.allow_outside,
            folders=self._folders,
            default_split=default_split,
        )

    def _ids(self, source: DataSource, split: str, prefixed: bool) -> list[str]:
        """Ids of all rows: the id column's, or split and number. Ids of a separate pool begin with its split."""
        columns = self._layout.of("id")
        if not columns:
            name = f"pool-{split}" if prefixed and split == self._split else split
            return [f"{name}-{row:06d}" for row in range(len(source))]
        ids = [text_of(value) for value in source.data[columns[0]]]
        row_of: dict[str, int] = {}
        for row, name in enumerate(ids):
            if name in row_of:
                raise DataError(
                    f"{source.name}: rows {row_of[name]} and {row} have the id '{name}'. IDs must be unique."
                )
            row_of[name] = row
        return [f"pool-{name}" for name in ids] if prefixed else ids

    def _choice(self, source: DataSource, rows: Sequence[int], limit: int | None, factor: str) -> list[int]:
        ids, key = self._ids(source, "", False), {"queries": "queries", "pool": "pool_size"}[factor]
        of_rows, whole = [ids[row] for row in rows], f"available rows of {source.name}"
        return [rows[i] for i in limited_choice(of_rows, limit, self.seed, f"hub/{factor}", key=key, whole=whole)]

    def _whole(self, rows: Sequence[int], limit: int) -> list[int]:
        """A nested choice of complete groups, with at most `limit` rows."""
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
            raise DataError(
                f"queries: {limit} is smaller than every group of {self._source.name}. Use a larger number."
            )
        return chosen

    def _read(
        self, source: DataSource, rows: Sequence[int], ids: Sequence[str], more: Sequence[str] = ()
    ) -> tuple[Example, ...]:
        return tuple(read_examples(source, self._layout, rows, [ids[row] for row in rows], more=more))

    @cached_property
    def _divided(self) -> tuple[list[int], list[int]]:
        """Rows of the queries and rows of the pool."""
        if self.leave_one_out:
            return list(range(len(self._source))), list(range(len(self._source)))
        return divide_by_group(self._groups(), self.pool_fraction, self.seed, "hub/division", self._source.name)

    def _groups(self) -> list[str]:
        """The group of each row of the queries' split."""
        columns = self._layout.of("group")
        if self.group_rows:
            return [f"row {row - row % self.group_rows}" for row in range(len(self._source))]
        if columns:
            values = zip(*(self._source.data[column] for column in columns), strict=True)
            ids = self._ids(self._source, "", False)
            return [group_name(row) or f"row {name}" for row, name in zip(values, ids, strict=True)]
        first = connected_components(row_image_keys(self._source, self._layout, range(len(self._source))))
        ids, names = self._ids(self._source, "", False), dict[int, str]()
        for row, name in zip(first, ids, strict=True):
            names[row] = min(name, names.get(row, name))
        return [f"row {names[row]}" for row in first]
