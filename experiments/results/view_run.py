"""Makes the view of a run: reads its samples and resolves the metric and the reference of its comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.config import (
    DEFAULT_CORRECTION,
    DEFAULT_REFERENCES,
    METRIC_PREFERENCE,
    matching_labels,
    node_matches,
    primary_metric,
)
from experiments.results.data_columns import declared_columns
from experiments.results.labeling import apply_labels
from experiments.results.run_metrics import UNAVAILABLE
from experiments.results.run_view import RunView
from experiments.stats import RUN_LEVEL, SAMPLE, LabelColumn, SharedAttrs, copy_scores, drop_scores, run_level_columns
from experiments.stats.arms import (
    EQUIVALENCE,
    UNIT,
    axes_of,
    baseline_column,
    better_of,
    find_baseline_column,
    resolve_setting,
    tidy_frame,
    unread_column,
)
from experiments.stats.findings import InterventionControls, reference_decoding
from experiments.stopping.looks import FOLDER as LOOKS
from experiments.stopping.looks import common_queries, read_families
from experiments.store import Store, read_labels
from icl import ConfigError, DataFrame, StoreError, canonical_digest, did_you_mean
from icl.metrics.base import BASELINES

NO_REFERENCE: Mapping[str, Any] = {}
"""The setting of a view that does not compare arms with each other."""


class StoredRun(Protocol):
    """A run directory, as `experiments.results.loaded_run.Run` reads it."""

    @property
    def path(self) -> Path: ...
    @property
    def trust(self) -> bool: ...
    def lazy_samples(self) -> DataFrame: ...


def view_run(
    run: StoredRun, metric: str | None = None, to: Mapping[str, Any] | None = None, by: Sequence[str] | None = None
) -> RunView:
    """The view of a run.

    Args:
        run: The run.
        metric: The metric of comparisons, by default the config's.
        to: The reference setting, by default the config's; NO_REFERENCE for no reference.
        by: Columns of the data by which the run is reported, by default as in the config or its presets.

    Raises:
        StoreError: The run has no samples.
        ConfigError: The run has no such metric or setting.
    """
    frame = run.lazy_samples()
    if not len(frame):
        raise StoreError(f"{run.path} has no finished sample yet. Start it with `icl run`, then try again.")
    axes = axes_of(frame)
    samples = tidy_frame(frame, axes)
    if families := read_families(run.path) if (run.path / LOOKS).is_dir() else ():
        samples = restrict_samples(samples, common_queries(families))
        if not len(samples):
            raise StoreError(f"{run.path} has taken no look yet. Its first look is after some more samples.")
    store = Store(run.path)
    info = store.read_run() or {}
    metrics = tuple(frame.attrs.get("metrics") or _metrics(frame))
    compare = dict(_inside(info, "config", "compare") or {})
    chosen = metric or str(primary_metric(info, metrics))
    if chosen in (unavailable := frame.attrs.get(UNAVAILABLE, {})):
        raise StoreError(f"{unavailable[chosen]} Other scores are readable (--metric): {', '.join(metrics)}.")
    if chosen not in metrics:
        raise ConfigError(
            f"the run has no score '{chosen}'.{did_you_mean(chosen, metrics)} Scores: {', '.join(metrics)}."
        )
    samples = apply_labels(samples, chosen, read_labels(run.path))
    columns = {name: find_baseline_column(frame, name, chosen) for name in _baselines(frame)}
    judged = {name: column for name, column in columns.items() if column}
    unjudged = [name for name in columns if name in samples and name not in judged]
    samples = copy_scores(samples, judged).drop(columns=unjudged)
    better = SharedAttrs({m: better_of(frame, m) for m in metrics})
    setting = to or _sole(samples, compare.get("to") or {}, store)
    reference, waits_for = dict[str, Any](), ""
    if to is not NO_REFERENCE:
        planned = not to and not set(info.get("cells") or ()) <= set(samples["cell"])
        if planned and _is_absent(samples, setting, axes):
            waits_for = ", ".join(f"{axis} {value}" for axis, value in setting.items())
        else:
            reference = resolve_setting(samples, setting, axes, "compare.to") if setting else _usual_reference(samples)
    return RunView(
        path=run.path,
        trust=run.trust,
        name=str(info.get("name") or run.path.name),
        frame=samples,
        scores=_scores(samples, axes, metrics, {"better": better, "accuracies": frame.attrs.get("accuracies")}),
        axes=axes,
        metrics=metrics,
        baselines=tuple(judged),
        metric=chosen,
        to=reference,
        correct=str(compare.get("correction", DEFAULT_CORRECTION)),
        controls=_controls(samples, store),
        interventions=_intervention_controls(samples, store),
        requested_forms=_requested_forms(samples, store),
        info=info,
        families=tuple(families),
        by=declared_columns(info) if by is None else tuple(by),
        waits_for=waits_for,
    )


def restrict_samples(samples: DataFrame, queries: Mapping[str, set[str]]) -> DataFrame:
    """The samples of these queries of each task. Run-level metrics are computed again on them."""
    keep = np.array([query in queries.get(str(task), ()) for task, query in samples[["task", "query"]].to_numpy()])
    rest = drop_scores(samples, ~keep, list(run_level_columns(samples)))[keep].reset_index(drop=True)
    rest.attrs = samples.attrs
    return rest


def _is_absent(samples: DataFrame, setting: Mapping[str, Any], axes: Sequence[str]) -> bool:
    """Whether the samples lack a value of the setting on one of their axes."""
    labels = {axis: [str(value) for value in samples[axis].unique()] for axis in setting if axis in axes}
    return any(not matching_labels(setting[axis], own) for axis, own in labels.items())


def _sole(samples: DataFrame, setting: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Replaces a setting by the axis' label if the axis has one value; its label then has no parameters to match."""
    labels = dict(setting)
    for axis, value in setting.items():
        if axis != "decoding" and axis in samples and samples[axis].nunique() == 1:
            cell = store.read_cell(str(samples["cell"].iloc[0])) or {}
            if node_matches(value, cell.get(axis)):
                labels[axis] = samples[axis].iloc[0]
    return labels


def _scores(samples: DataFrame, axes: Sequence[str], metrics: Sequence[str], attrs: dict[Any, Any]) -> DataFrame:
    baseline_columns = {name: [baseline_column(name, metric) for metric in metrics] for name in _baselines(samples)}
    judged = [column for name, columns in baseline_columns.items() for column in (name, *columns) if column in samples]
    own = [name(metric) for metric in metrics for name in (unread_column, *(column.of for column in LabelColumn))]
    optional = [name for name in (EQUIVALENCE, SAMPLE, *own) if name in samples]
    names = list(dict.fromkeys(["query", "seed", UNIT, *optional, *axes, *metrics, *judged]))
    scores = samples[names].copy(deep=False)  # shares columns (pandas 3): those of a large run take 300 MB
    scores.attrs = attrs | {key: samples.attrs[key] for key in (RUN_LEVEL,) if key in samples.attrs}
    scores["failed"] = samples["failed"].notna() if "failed" in samples else False
    for axis, value in (("task", "task"), ("shots", 0)):
        if axis not in scores:
            scores[axis] = value
    return scores


def _baselines(frame: DataFrame) -> list[str]:
    return [
        name for name in BASELINES if name in frame or any(str(c).startswith(baseline_column(name, "")) for c in frame)
    ]


def _usual_reference(samples: DataFrame) -> dict[str, Any]:
    """The reference without a setting in the config: the default decoding, else random retrieval, else 0 shots."""
    if "decoding" in samples and samples["decoding"].nunique() > 1:
        return {"decoding": reference_decoding(samples)}
    chance = DEFAULT_REFERENCES["retriever"]
    if "retriever" in samples and chance in set(samples["retriever"]) and samples["retriever"].nunique() > 1:
        return {"retriever": chance}
    return {"shots": 0} if "shots" in samples and 0 in set(samples["shots"]) else {}


def _controls(samples: DataFrame, store: Store) -> dict[str, tuple[str, ...]]:
    """The labels of each strategy's controls: those that the run added, and wrappers with the same sampler."""
    if "decoding" not in samples or "cell" not in samples:
        return {}
    cells = cells_by_label(samples, "decoding", store)
    nodes = {label: cell.get("decoding") for label, cell in cells.items()}
    own = {label: str(cell.get("decoding_digest")) for label, cell in cells.items()}
    controls = {
        label: tuple(
            name
            for name, other in nodes.items()
            if _wraps(other, node) or (cells[name].get("control") and own[label] in cells[name].get("controls", ()))
        )
        for label, node in nodes.items()
    }
    return {label: names for label, names in controls.items() if names}


def _intervention_controls(samples: DataFrame, store: Store) -> InterventionControls:
    """The controls of each intervention: the same method with another value of its parameter `control`."""
    if "intervene" not in samples or "cell" not in samples:
        return InterventionControls()
    cells = cells_by_label(samples, "intervene", store)
    nodes = {label: node for label, cell in cells.items() if isinstance(node := cell.get("intervene"), Mapping)}
    methods = {label: node for label, node in nodes.items() if node.get("control", "none") == "none"}
    controls = {
        label: {
            other: f"{own['control']}, draw {own['draw']}" if own.get("draw") else str(own["control"])
            for other, own in nodes.items()
            if other not in methods and _without_control(own) == _without_control(node)
        }
        for label, node in methods.items()
    }
    decodings = cells_by_label(samples, "decoding", store) if "decoding" in samples else {}
    of_items = [name for name, cell in decodings.items() if cell.get("control") and not cell.get("controls")]
    return InterventionControls(controls, of_items, [label for label, node in methods.items() if node.get("fitted")])


def _requested_forms(samples: DataFrame, store: Store) -> dict[str, str]:
    """Label of a composer with another `answer` than 'free' -> the label of the same composer without it."""
    if "composer" not in samples or "cell" not in samples or samples["composer"].nunique() < 2:
        return {}
    nodes = {
        label: dict(node) if isinstance(node := cell.get("composer"), Mapping) else {"name": node}
        for label, cell in cells_by_label(samples, "composer", store).items()
    }
    free = {canonical_digest(node): label for label, node in nodes.items() if "answer" not in node}
    plain = {label: canonical_digest({k: v for k, v in one.items() if k != "answer"}) for label, one in nodes.items()}
    return {label: free[plain[label]] for label, node in nodes.items() if "answer" in node and plain[label] in free}


def _without_control(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in ("control", "draw")}


def cells_by_label(samples: DataFrame, axis: str, store: Store) -> dict[str, Mapping[str, Any]]:
    """Label of an axis -> the description of the first cell that has it. It is empty if it is not stored."""
    first = samples.drop_duplicates(axis)
    return {
        str(label): store.read_cell(str(digest)) or {} for label, digest in zip(first[axis], first["cell"], strict=True)
    }


def _wraps(control: Any, arm: Any) -> bool:
    wrapped = _inside(control, "strategy", "of")
    if wrapped is None or wrapped != _inside(arm, "strategy"):
        return False
    return all(control.get(key) == arm.get(key) for key in ("sampler", "acts_in"))


def _metrics(frame: DataFrame) -> Sequence[str]:
    metrics = [metric for metric in (*METRIC_PREFERENCE, "yes_ratio") if metric in frame]
    if not metrics:
        raise StoreError("the run's samples have no scores.")
    return metrics


def _inside(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
