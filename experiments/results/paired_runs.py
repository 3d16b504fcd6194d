"""Two runs as one frame of pairs: the arms of the second run against the arms of the first.

Arms are paired by their settings. An arm of the second run is compared with the arm of the first that has the same
settings (another version, another machine). Without one, it is compared with the arm that differs on the fewest axes,
unless several do or that arm is compared with its equal. Samples are paired by query and seed, and must ask the same
question. An arm has the labels of the second run on both sides.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.config.keys import AXES
from experiments.results.invocations import differing_environments
from experiments.results.run_view import RunView
from experiments.stats import RUN_LEVEL, SAMPLE, RunLevelColumns, RunLevelScores, UnpairedError, run_level_columns
from experiments.stats.arms import EQUIVALENCE, NO_VALUE, describe_arm, varying_axes
from experiments.store.store import Store
from icl import ConfigError, DataFrame, ScoredSample, describe, pd, truncate

RUN = "run"
"""The axis of the joined frame: which run a sample is from."""
FACTS = ("question", "gold", "gold_before_after", "meta", "cell", "failed")
"""The columns of details that the joined frame has."""
NOT_SETTINGS = (
    "seed",
    "labels",
    "control",
    "controls",
    "decoding_digest",
    "decided_by",
    "imported",
    "equivalent_to_greedy",
)
"""The keys of cell.json that are no settings, or follow from the axes."""
MAX_LISTED = 12
"""The largest number of settings, or of arms, that a sentence lists."""


@dataclass(frozen=True, eq=False)
class PairedRuns:
    """Two runs with paired arms.

    Attributes:
        view: The view of both, with the axis RUN; its reference is the first run.
        notes: Sentences: which settings and versions differ, and which arms have no counterpart.
    """

    view: RunView
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Arm:
    """One setting of a run over all seeds: its labels, the digests of its cells, and the first description of them."""

    labels: Mapping[str, Any]
    cells: tuple[str, ...]
    description: Mapping[str, Any]


_Arms = dict[tuple[str, ...], _Arm]
"""The canonical JSON of the value on each axis -> the arm."""
_Pair = tuple[tuple[str, ...], tuple[str, ...]]


def pair_runs(first: RunView, second: RunView) -> PairedRuns:
    """Joins two runs.

    Args:
        first: The reference.
        second: The other run, viewed by the same metric.

    Raises:
        UnpairedError: The runs ask other questions under one id.
        ConfigError: Both are one run, or an arm matches several others equally well.
    """
    if first.path.resolve() == second.path.resolve():
        raise ConfigError(f"icl compare takes two different runs, and both are {first.path}. For one, give it once.")
    names = _names(first, second)
    arms = _arms(first), _arms(second)
    pairs = _pairs(arms, names)
    frames, scores = [], []
    for side, view in enumerate((first, second)):
        facts = view.frame[[name for name in FACTS if name in view.frame]]
        own, details = [], []
        for pair in pairs:
            rows = view.frame["cell"].isin(arms[side][pair[side]].cells).to_numpy()
            labels = {**arms[1][pair[1]].labels, RUN: names[side], EQUIVALENCE: ""}
            own.append(view.scores[rows].assign(**labels))
            details.append(facts[rows])
        scores.append(pd.concat(own))
        frames.append(scores[-1].assign(**{str(name): list(values) for name, values in pd.concat(details).items()}))
    frame, joined = concat_scores(frames), concat_scores(scores)
    joined.attrs = first.scores.attrs | joined.attrs
    _check_questions(frame, names)
    view = replace(
        first, name=f"{names[1]} against {names[0]}", frame=frame, scores=joined, axes=(RUN, *AXES), to={RUN: names[0]},
        controls={}, by=(),
    )  # fmt: skip
    return PairedRuns(view, tuple(_notes((first, second), arms, pairs, names)))


def concat_scores(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of frames of several runs; run-level columns refer to the samples of all of them.

    Raises:
        ConfigError: If a run-level column has other metrics in different runs.
    """
    every = [run_level_columns(frame) for frame in frames]
    names = dict.fromkeys(name for own in every for name in own)
    if not names:
        return pd.concat(frames, ignore_index=True)
    sizes = [
        max([len(frame), *(len(own[name].samples) for name in own)]) for frame, own in zip(frames, every, strict=True)
    ]
    offsets, columns = np.cumsum([0, *sizes[:-1]]), {}
    for name in names:
        metrics = [own[name].metric for own in every if name in own]
        if any(describe(metric) != describe(metrics[0]) for metric in metrics):
            raise ConfigError(f"'{name}' is another metric in each run: {', '.join(map(repr, metrics))}.")
        samples, cells = list[ScoredSample](), []
        for own, size, offset in zip(every, sizes, offsets, strict=True):
            samples += own[name].samples if name in own else [ScoredSample("", None)] * size
            cells.append(own[name].cells + offset if name in own else np.full(size, offset))
        columns[name] = RunLevelScores(metrics[0], samples, np.concatenate(cells))
    numbers = [frame[SAMPLE] if SAMPLE in frame else np.arange(len(frame)) for frame in frames]
    numbered = [f.assign(**{SAMPLE: own + offset}) for f, own, offset in zip(frames, numbers, offsets, strict=True)]
    joined = pd.concat(numbered, ignore_index=True)
    joined.attrs = {RUN_LEVEL: RunLevelColumns(columns)}
    return joined


def _names(first: RunView, second: RunView) -> tuple[str, str]:
    """The names of two runs; their paths if they have one name."""
    if first.name != second.name:
        return first.name, second.name
    return str(first.path), str(second.path)


def _arms(view: RunView) -> _Arms:
    store, cells = Store(view.path), dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]]()
    for digest in view.frame["cell"].unique():
        cell = store.read_cell(str(digest)) or {}
        key = tuple(_value(cell, axis) for axis in AXES)
        cells.setdefault(key, []).append((str(digest), cell))
    first = view.frame.drop_duplicates("cell").set_index("cell")
    return {
        key: _Arm({axis: first.loc[own[0][0], axis] for axis in AXES}, tuple(digest for digest, _ in own), own[0][1])
        for key, own in cells.items()
    }


def _value(cell: Mapping[str, Any], axis: str) -> str:
    """The value of a cell on an axis as text; its label if the cell was imported from logs and has no value."""
    node = cell[axis] if axis in cell else {"label": (cell.get("labels") or {}).get(axis)}
    return json.dumps(node, sort_keys=True, default=repr)


def _pairs(arms: tuple[_Arms, _Arms], names: tuple[str, str]) -> list[_Pair]:
    """(arm of the first run, arm of the second run).

    Raises:
        ConfigError: The runs share no arm, and one matches several arms equally well.
    """
    shared = arms[0].keys() & arms[1].keys()
    pairs = list[_Pair]()
    for key in arms[1]:
        nearest = [key] if key in shared else _nearest(key, arms[0])
        if len(nearest) > 1 and not shared:
            axes = [axis for i, axis in enumerate(AXES) if len({other[i] for other in nearest}) > 1]
            listed = "; ".join(describe_arm(arms[0][other].labels, axes) or NO_VALUE for other in nearest[:MAX_LISTED])
            mine = describe_arm(arms[1][key].labels, axes) or NO_VALUE
            raise ConfigError(
                f"the arm '{mine}' of {names[1]} matches several arms of {names[0]} equally well: {listed}. Say which "
                "to compare: `icl import ALL RUN RUN` makes one run of both, and `icl compare ALL --to AXIS=VALUE` "
                "chooses the reference."
            )
        if key in shared or (len(nearest) == 1 and nearest[0] not in shared):
            pairs.append((nearest[0], key))
    return pairs


def _nearest(key: tuple[str, ...], arms: _Arms) -> list[tuple[str, ...]]:
    """The arms that differ from this one on the fewest axes, with the same task if any."""
    distances: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for other in arms:
        differing = [axis for axis, one, two in zip(AXES, key, other, strict=True) if one != two]
        distances.setdefault((int("task" in differing), len(differing)), []).append(other)
    return distances[min(distances)]


def _check_questions(frame: DataFrame, names: tuple[str, str]) -> None:
    """Refuses runs that ask other questions, or have other answers, under the id of one query."""
    columns = [name for name in ("question", "gold") if name in frame]
    if "gold_before_after" in frame and any(isinstance(value, list) and value for value in frame["gold_before_after"]):
        columns = [name for name in columns if name != "gold"]  # transforms rename answers
    rows = frame[frame["failed"].isna()].drop_duplicates([RUN, "task", "query"])
    for column in columns:
        texts = rows.assign(text=rows[column].map(repr)).pivot(index=["task", "query"], columns=RUN, values="text")
        both = texts.dropna()
        differ = both[both[names[0]] != both[names[1]]] if len(both) else both
        if len(differ):
            _, query = differ.index[0]
            one, other = (truncate(str(differ.iloc[0][name])) for name in names)
            raise UnpairedError(
                f"{names[0]} and {names[1]} do not pair: {len(differ):,} queries with one id have another {column} "
                f"(query {query}: {one} and {other}). Their data differ, or it changed between the runs."
            )


def _notes(
    views: tuple[RunView, RunView],
    arms: tuple[_Arms, _Arms],
    pairs: Sequence[_Pair],
    names: tuple[str, str],
) -> Iterator[str]:
    settings = dict.fromkeys(
        f"{axis} {one.labels[axis]} → {other.labels[axis]}"
        if one.labels[axis] != other.labels[axis]
        else f"{axis} {one.labels[axis]} ({_parameters(left[i], right[i])})"
        for left, right in pairs
        for i, axis in enumerate(AXES)
        for one, other in [(arms[0][left], arms[1][right])]
        if left[i] != right[i] and (one.labels[axis] != other.labels[axis] or "null" not in (left[i], right[i]))
    )
    others = dict.fromkeys(
        key.replace("_", " ")
        for left, right in pairs
        for key in {**arms[0][left].description, **arms[1][right].description}
        if key not in (*AXES, *NOT_SETTINGS)
        and arms[0][left].description.get(key) != arms[1][right].description.get(key)
    )
    listed = [*settings, *others]
    if listed:
        more = f", and {len(listed) - MAX_LISTED:,} more" if len(listed) > MAX_LISTED else ""
        yield f"settings that differ: {'; '.join(listed[:MAX_LISTED])}{more}"
    else:
        yield "no setting differs"
    if environment := differing_environments(*(Store(view.path) for view in views)):
        yield f"versions that differ: {environment}"
    axes = varying_axes(pd.concat([view.scores[list(AXES)] for view in views]), AXES)
    for side, name in enumerate(names):
        compared = {pair[side] for pair in pairs}
        if alone := [describe_arm(arm.labels, axes) for key, arm in arms[side].items() if key not in compared]:
            more = f" and {len(alone) - MAX_LISTED:,} more" if len(alone) > MAX_LISTED else ""
            yield f"only in {name}: {'; '.join(alone[:MAX_LISTED])}{more}"


def _parameters(one: str, other: str) -> str:
    """The parameters in which two values of an axis with the same label differ: 'alpha 0.5 → 1.0'."""
    left, right = (dict(_flat(json.loads(text))) for text in (one, other))
    changed = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return ", ".join(f"{key} {left.get(key, 'none')} → {right.get(key, 'none')}" for key in changed[:MAX_LISTED])


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield prefix, node
        return
    for key, value in items:
        yield from _flat(value, f"{prefix}.{key}".lstrip("."))
