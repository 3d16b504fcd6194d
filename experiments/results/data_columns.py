"""Columns of the data: facts of a query that divide a run into parts, such as the category of a question.

A column is a key of a sample's `meta`, or `answer` (the first accepted answer). Its value belongs to the query, so it
is the same in every arm. When a run is read, it is a further axis of the samples: cells and their digests do not
change, and run-level metrics are computed again within each value. A list of values, also one written as text, puts a
query into the part of each of them: these parts overlap.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import Field, replace
from math import isnan
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from experiments.config.keys import MAX_COLUMN_VALUES
from experiments.stats import EQUIVALENCE, MISSING_VALUE, ArmComparison, Topic, add_run_level, format_count
from experiments.stats.run_level_frames import repeat_samples, within_parts
from icl import ConfigError, DataFrame, Series, did_you_mean, pd
from icl.tasks.cell_values import parse_list
from icl.tasks.presets import preset_columns

ANSWER = "answer"
"""The column with the first accepted answer of a query, such as yes or no."""
MAX_LISTED = 20
"""The largest number of columns that a message names."""


class ScoreView(Protocol):
    """What columns and claims read of a run; `experiments.results.run_view.RunView` describes the members."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def frame(self) -> DataFrame: ...
    @property
    def scores(self) -> DataFrame: ...
    @property
    def paired_scores(self) -> DataFrame: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def metric(self) -> str: ...
    @property
    def to(self) -> Mapping[str, Any]: ...
    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def is_sequential(self) -> bool: ...
    @property
    def sequential_note(self) -> str: ...
    @property
    def comparisons(self) -> dict[Topic, list[ArmComparison]]: ...


View = TypeVar("View", bound=ScoreView)


def declared_columns(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns by which a run is reported: `by` of its config, else those that the presets of its tasks declare."""
    config = info.get("config") or {}
    own = config.get("by")
    if own is not None:
        return tuple(map(str, [own] if isinstance(own, str) else own))
    tasks = [config.get("task"), (config.get("grid") or {}).get("task"), (config.get("zip") or {}).get("task")]
    return tuple(dict.fromkeys(column for preset in _presets(tasks) for column in preset_columns(preset)))


def split_view(view: View, columns: Sequence[str]) -> View:
    """The view with columns of the data as further axes, and run-level metrics computed within their values.

    Args:
        view: The view of a run.
        columns: The names of the columns. Several columns give one part for each combination of their values. A sample
            with a list of values has a row for each of them.

    Raises:
        ConfigError: The run has no such column, or the column does not divide the queries into parts.
    """
    labels = {name: column_values(view.frame, name, view.axes) for name in columns}
    frame, scores = (_a_row_per_value(table.assign(**labels), columns) for table in (view.frame, view.scores))
    parts = list(zip(*(scores[name].tolist() for name in columns), strict=True))
    numbers: dict[str, Any] = {}
    if EQUIVALENCE in scores:  # comparisons in two parts are two hypotheses
        numbers[EQUIVALENCE] = [
            f"{digest}{''.join(map(repr, part))}" if digest else ""
            for digest, part in zip(scores[EQUIVALENCE], parts, strict=True)
        ]
    run_level = within_parts(scores, pd.factorize(pd.Series(parts, dtype=object))[0])
    return replace(
        view,
        frame=add_run_level(frame.assign(**numbers), run_level),
        scores=add_run_level(scores.assign(**numbers), run_level),
        axes=(*view.axes, *columns),
        by=(),
    )


def parts_of(view: View, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], View]]:
    """(value of each column, the view of the samples with these values); queries without a value last."""
    split = split_view(view, columns)
    places = split.frame.groupby(list(columns), sort=False).indices.items()
    for values, rows in sorted(
        places, key=lambda pair: MISSING_VALUE in np.atleast_1d(np.asarray(pair[0], dtype=object))
    ):
        named = dict(zip(columns, values if isinstance(values, tuple) else (values,), strict=True))
        yield named, replace(split, frame=split.frame.iloc[rows], scores=split.scores.iloc[rows], axes=view.axes)


def column_values(frame: DataFrame, name: str, axes: Sequence[str] = ()) -> "Series[Any]":
    """The value of a column for each sample: a number or a text; MISSING_VALUE where the query has no value.

    In a column with lists, it is the tuple of the query's distinct values.

    Args:
        frame: The samples of a run.
        name: The name of the column.
        axes: The axes of the run; a column cannot have one of their names.

    Raises:
        ConfigError: The run has no such column, its values do not belong to queries, or there are too many.
    """
    lists = [_items(value) for value in _raw_values(frame, name)]
    present = [one for values in lists for one in values]
    if not present:
        raise ConfigError(_no_such_column(frame, name, axes))
    if name in frame or name in axes:
        raise ConfigError(f"--by: '{name}' is a field of every sample already, so it cannot be a column of the data.")
    if wrong := next(filter(_is_nested, present), None):
        text = json.dumps(wrong, ensure_ascii=False)
        raise ConfigError(
            f"--by: the values of '{name}' are mappings or lists of lists, such as {text[:60]}. Use a value or a "
            "list of values."
        )
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        lists = [tuple(map(_text, values)) for values in lists]
    distinct = {one for values in lists for one in values}
    if len(distinct) > MAX_COLUMN_VALUES:
        raise ConfigError(
            f"--by: '{name}' has {len(distinct):,} values, and a table has at most {MAX_COLUMN_VALUES}. Use a coarser "
            "column, or add one to the data (`meta` of the task's columns)."
        )
    values = [own[0] if len(own) == 1 else own or MISSING_VALUE for own in lists]
    tasks = frame["task"].tolist() if "task" in frame else [""] * len(frame)
    first: dict[Hashable, Any] = {}
    for task, query, value in zip(tasks, frame["query"].tolist(), values, strict=True):
        if first.setdefault((task, query), value) != value:
            raise ConfigError(
                f"--by: '{name}' is not a column of the data: query '{query}' has the values {first[task, query]} and "
                f"{value} under different arms. Paired comparisons need one value for each query."
            )
    return pd.Series(values, index=frame.index, dtype=object)


def available_columns(frame: DataFrame, axes: Sequence[str] = ()) -> list[str]:
    """The names that `column_values` may take, the most frequent first."""
    metas = [meta for meta in frame["meta"] if isinstance(meta, Mapping)] if "meta" in frame else []
    counts = Counter(key for meta in metas for key in meta)
    nested = {key for meta in metas for key, value in meta.items() if any(map(_is_nested, _items(value)))}
    own = [name for name, _ in counts.most_common() if name not in {*frame, *axes, *nested}]
    return own if ANSWER in own or "gold" not in frame else [*own, ANSWER]


def missing_note(labels: "Series[Any]", queries: "Series[Any]", name: str) -> str:
    """A sentence on the queries without a value, or ''."""
    missing = queries[labels == MISSING_VALUE].nunique()
    if not missing:
        return ""
    return (
        f"{format_count(missing, 'query has', 'queries have')} no value of {name}: they are in the row "
        f"'{MISSING_VALUE}', and in no macro average or test of parts."
    )


def overlap_note(labels: "Series[Any]", queries: "Series[Any]", name: str) -> str:
    """A sentence on the queries with several values, or ''. labels: the values of all rows of a split view."""
    values = pd.DataFrame({"query": queries, "value": labels}).drop_duplicates()["query"].value_counts()
    if not (number := int((values > 1).sum())):
        return ""
    return (
        f"{format_count(number, 'query has', 'queries have')} several values of {name}, with a part in the row of "
        "each, so rows overlap. Effects compare the queries with a value and those without it."
    )


def _a_row_per_value(frame: DataFrame, columns: Sequence[str]) -> DataFrame:
    for name in columns:
        lists = [value if isinstance(value, tuple) else (value,) for value in frame[name]]
        if (sizes := np.array([len(values) for values in lists])).max(initial=1) > 1:
            frame = repeat_samples(frame, np.repeat(np.arange(len(frame)), sizes))
            frame[name] = pd.Series([one for values in lists for one in values], dtype=object)
    return frame


def _items(value: Any) -> Sequence[Any]:
    """The distinct values in a value: those of a list, also of one that is written as text."""
    listed = parse_list(value) if isinstance(value, str) else value
    items = listed if isinstance(listed, list | tuple) else [value]
    present = [one for one in items if one is not None and not (isinstance(one, float) and isnan(one))]
    return tuple(one for place, one in enumerate(present) if one not in present[:place])


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _raw_values(frame: DataFrame, name: str) -> list[Any]:
    metas = list(frame["meta"]) if "meta" in frame else []
    values = [meta.get(name) if isinstance(meta, Mapping) else None for meta in metas]
    if name == ANSWER and "gold" in frame and all(value is None for value in values):
        values = [str(gold[0]) if isinstance(gold, list | tuple) and gold else None for gold in frame["gold"]]
    return values


def _no_such_column(frame: DataFrame, name: str, axes: Sequence[str]) -> str:
    have = available_columns(frame, axes)
    if name in axes:
        return f"--by: '{name}' is an axis of the run, not a column of the data. Tables have it as rows or columns."
    if not have:
        return f"--by: the run has no column '{name}'. Its samples store no facts of their queries (`meta`)."
    more = f" and {len(have) - MAX_LISTED:,} more" if len(have) > MAX_LISTED else ""
    listed = ", ".join(have[:MAX_LISTED]) + more
    return f"--by: the data of the run has no column '{name}'.{did_you_mean(name, have)} Columns: {listed}."


def _text(value: Any) -> str:
    """The label of a value. 'none' is quoted, because tables use it for an axis that cannot matter."""
    text = str(value) if isinstance(value, str) else json.dumps(value)
    return f'"{text}"' if text in ("none", "", MISSING_VALUE) else text


def _presets(node: Any) -> Iterator[str]:
    """The names of all presets in a config node."""
    if isinstance(node, Mapping):
        if isinstance(node.get("preset"), str):
            yield node["preset"]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for one in node:
            yield from _presets(one)
