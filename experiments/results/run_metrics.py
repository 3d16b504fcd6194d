"""Run-level metrics, such as F1 or the accuracy of pairs, as columns of numbers whose mean is the statistic.

The statistic is computed when the run is read, for one cell (one seed of an arm) at a time. Baselines of the same
demonstrations are judged in the same way, by the stored answers of the demonstrations. The frame's `attrs` have what
each number was computed from (`experiments.stats.run_level_frames`).
"""

import warnings
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.stats import RUN_LEVEL, SAMPLE, RunLevelColumns, RunLevelScores, add_run_level, as_mapping, text_value
from experiments.stats.arms import baseline_column
from icl import ConfigError, DataError, DataFrame, Demo, Example, ICLError, ICLWarning, Query, ScoredSample, StoreError
from icl.loading import file_code
from icl.metrics import BASELINES, RunLevelMetric
from icl.registry import build, component_search_folder, describe
from icl.untrusted import untrusted_run

UNAVAILABLE = "unavailable"
"""The key of a frame's `attrs` with the reasons why run-level metrics have no values."""

FACTS = ("better", "run_level", "accuracy", "code", "revision", "reader")
"""The keys of a metric in run.json that are not its parameters."""


DETAILS = ("query", "group", "output", "gold", "options", "meta", "demos", "ranks")
"""The columns that run-level metrics and baselines read, in addition to the score's column."""


def run_level(frame: DataFrame, info: Mapping[str, Any], baselines: Iterable[str], folder: Path = Path()) -> DataFrame:
    """Computes the columns of run-level metrics in a frame.

    A metric that run.json names by the path of its code keeps its stored numbers in a run that is not trusted
    (`icl.untrusted`), with a warning.

    Args:
        frame: The samples.
        info: The content of run.json.
        baselines: The names of the baselines.
        folder: The folder of the experiment file, where code is searched before the working directory.

    Returns:
        The frame. A metric has no column if its code is missing or has changed; `attrs[UNAVAILABLE]` then says why.
    """
    nodes = info.get("metrics", {})
    whole = {name: node for name, node in nodes.items() if isinstance(node, Mapping) and node.get("run_level")}
    if not whole or not len(frame):
        return frame
    cells, unavailable = frame["cell"].factorize()[0], dict[str, str]()
    frame = frame.assign(**{SAMPLE: np.arange(len(frame))})
    frame.attrs[RUN_LEVEL] = RunLevelColumns({})
    for name, node in whole.items():
        if untrusted_run() is not None and ":" in str(node.get("name")):
            warnings.warn(
                f"'{name}' is a run-level metric with code of its own ({node['name']}), which is not imported from a "
                "run directory. The mean of its stored numbers is shown. --trust computes the metric.",
                ICLWarning,
                stacklevel=2,
            )
            continue
        try:
            metric = _built(name, node, info, folder)
        except StoreError as error:
            frame = _without(frame, name, baselines, error)
            unavailable[name] = str(error)
            continue
        judged = {name: "", **{baseline_column(baseline, name): baseline for baseline in baselines}}
        columns = {column: by for column, by in judged.items() if column in frame}
        try:
            scores = {
                column: RunLevelScores(metric, _judged(frame, column, by), cells) for column, by in columns.items()
            }
            frame = add_run_level(frame, scores)
        except DataError as error:  # code of others, such as the aggregation of a task, cannot compute it
            frame = _without(frame, name, baselines, error)
            unavailable[name] = str(error)
            continue
        frame = frame.drop(columns=[column for column in columns if column != name and frame[column].isna().all()])
    frame.attrs[UNAVAILABLE] = unavailable
    return frame


def _without(frame: DataFrame, name: str, baselines: Iterable[str], error: ICLError) -> DataFrame:
    """The frame without the columns of a metric, after a warning with the reason."""
    warnings.warn(str(error), ICLWarning, stacklevel=3)
    own = [name, *(baseline_column(baseline, name) for baseline in baselines)]
    return frame.drop(columns=[column for column in own if column in frame])


def _judged(frame: DataFrame, column: str, baseline: str) -> list[ScoredSample]:
    """The samples as the metric reads them. baseline: the baseline whose answers count; '' for the model's answers."""
    rows = frame[[name for name in (*DETAILS, column) if name in frame]]
    return [
        ScoredSample(
            query=str(row["query"]),
            score=None if not isinstance(row[column], int | float) or np.isnan(row[column]) else float(row[column]),
            group=row["group"] if isinstance(row.get("group"), str) else None,
            output=_baseline_answer(row, baseline) if baseline else text_value(row, "output"),
            gold=_texts(row.get("gold")),
            options=_texts(row.get("options")),
            meta=as_mapping(row.get("meta")),
        )
        for row in rows.to_dict("records")
    ]


def _baseline_answer(row: Mapping[Hashable, Any], baseline: str) -> str | None:
    """The baseline's answer from the stored demonstrations, or None if these or their ranks are missing."""
    triples, ranks = row.get("demos"), row.get("ranks")
    if not isinstance(triples, list | tuple) or not isinstance(ranks, list | tuple) or len(triples) != len(ranks):
        return None
    demos = [
        Demo(Example(str(name), (), "", (str(answer),)), float(score), int(rank))
        for (name, score, answer), rank in zip(triples, ranks, strict=True)
    ]
    return BASELINES[baseline](demos, Query(str(row["query"]), (), "")) if baseline in BASELINES else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _built(name: str, node: Mapping[str, Any], info: Mapping[str, Any], folder: Path) -> RunLevelMetric:
    """The metric. If it is named by a path, the path is relative to the config's folder or the working directory."""
    own = ":" in str(node.get("name"))
    own_node = {key: value for key, value in node.items() if key not in FACTS}
    if own:
        configured = (info.get("config") or {}).get("metrics") or []
        own_node["name"] = next(
            (path for path in map(_path, configured) if _same(path, str(node["name"]))), node["name"]
        )
    changed = (
        f"the run-level metric '{name}' is computed when the run is read, and {own_node['name']} has changed. "
        "Give the same `icl run` command to score the answers again."
    )
    try:
        with component_search_folder(folder):
            if own and file_code(str(own_node["name"])) not in (None, node.get("code")):
                raise StoreError(changed)
            metric: RunLevelMetric = build("metric", own_node)
    except ConfigError as error:
        raise StoreError(
            f"the run-level metric '{name}' is computed when the run is read, which needs its code: {error}"
        ) from error
    if own and describe(metric).get("code") != node.get("code"):
        raise StoreError(changed)
    return metric


def _path(node: Any) -> str:
    return str(node.get("name") if isinstance(node, Mapping) else node)


def _same(path: str, recorded: str) -> bool:
    """Whether a path in the config is the metric that run.json records by its file name alone."""
    return path == recorded or path.replace("\\", "/").endswith(f"/{recorded}")
