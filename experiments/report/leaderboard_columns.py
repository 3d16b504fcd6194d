"""The columns of a leaderboard: one for each run, model, task and setting, with the verdict on every method.

Captions are judged by CHAIR if the run has it, other tasks by the metric of the run's `compare`. A task without scores
of that metric has the first one of the run that it has scores of. A metric without a good direction judges nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

from experiments.report.sections.costs import session_seconds
from experiments.results import RunView, cells_by_label, split_view
from experiments.stats import DEFAULT_MARGIN, Estimate, estimate_arm, join_words, signed_gain, trace_means
from experiments.stats.arms import NO_VALUE, axis_values, better_of, split_by_subject, varying_axes
from experiments.stats.bounds import ArmBounds, bound_arm
from experiments.stats.strategy_verdicts import ComparedSamples, MethodVerdict, judge_methods
from experiments.store.store import Store
from icl import ConfigError, DataFrame

CAPTION_METRICS = ("chair_corpus", "chair_i", "chair_s")
"""The metrics of captions, the published one first."""


@dataclass(frozen=True)
class LeaderboardCell:
    """One method in one column.

    Attributes:
        score: The mean score with its interval.
        bounds: The bounds of the mean score; None if every output is read.
        forwards: Forward passes per token of the answer, one per branch; NaN without traces.
        length: Tokens per answer.
        seconds: Estimated seconds per answer: the time of the run, divided in proportion to forward passes.
        verdict: None for the reference.
    """

    score: Estimate
    bounds: ArmBounds | None
    forwards: float
    length: float
    seconds: float
    verdict: MethodVerdict | None


@dataclass(frozen=True, eq=False)
class LeaderboardColumn:
    """One run, model, task and setting.

    Attributes:
        run: The name of the run.
        path: Its folder.
        subject: The task and the settings that vary, in words.
        model: The model; '' if it is in the subject.
        metric: The metric.
        measure: The metric in words.
        queries: The number of queries.
        seeds: The number of seeds.
        reference: The label of the reference.
        cells: The reference, then each method.
    """

    run: str
    path: Path
    subject: str
    model: str
    metric: str
    measure: str
    queries: int
    seeds: int
    reference: str
    cells: Mapping[str, LeaderboardCell]


@dataclass(frozen=True)
class Leaderboard:
    """The columns of a leaderboard with what its verdicts rest on.

    Attributes:
        columns: The columns.
        methods: The methods, best first: by the number of columns where they beat their controls, then by their
            mean gain over the strongest control.
        family: The number of comparisons that p is corrected for.
        margin: The smallest gain that counts.
        notes: What the reader must know about single runs.
    """

    columns: tuple[LeaderboardColumn, ...]
    methods: tuple[str, ...]
    family: int
    margin: float
    notes: tuple[str, ...]


def collect_leaderboard(
    views: Sequence[RunView], metrics: Sequence[str] = (), margin: float = DEFAULT_MARGIN
) -> Leaderboard:
    """The leaderboard of some runs.

    Args:
        views: The runs.
        metrics: The metrics in order of preference; by default CHAIR, then each run's own metric.
        margin: The smallest gain that counts.

    Raises:
        ConfigError: A run has no method other than its reference, is unfinished, ends early, or has no such metric.
    """
    for view in views:
        _check(view, metrics)
    parts = [(view, part) for view in views for part in _parts(view, metrics)]
    verdicts = judge_methods([part for _, part in parts], margin)
    placed = [
        (views.index(view), view.tasks.index(task), column)
        for (view, part), own in zip(parts, verdicts.columns, strict=True)
        for task, column in _columns(view, part, own)
    ]
    columns = [column for *_, column in sorted(placed, key=lambda one: one[:2])]
    notes = [f"{view.name}: {note}" for view in views for note in _notes(view)]
    return Leaderboard(tuple(columns), _ranked(columns), verdicts.family, margin, (*notes, *_label_notes(views)))


def split_by_columns(view: RunView, columns: Sequence[str]) -> RunView:
    """The run with columns of the data as further axes. Raises ConfigError, with the path of the run."""
    try:
        return split_view(view, columns)
    except ConfigError as error:
        raise ConfigError(f"{view.path}: {error}") from error


def _check(view: RunView, metrics: Sequence[str]) -> None:
    if view.is_sequential:
        raise ConfigError(f"{view.path}: {view.sequential_note}")
    names = set(view.scores["decoding"]) if "decoding" in view.scores else set()
    if not names - view.control_names - {view.reference}:
        raise ConfigError(
            f"{view.path}: the run has no decoding method beside its reference. Put methods into grid.decoding and set "
            "`controls: default`, as `icl ls configs decoding_controls` does."
        )
    if metrics and not any(name in view.metrics for name in metrics):
        raise ConfigError(f"{view.path}: no score {' or '.join(metrics)}. Scores: {', '.join(view.metrics)}.")


def _parts(view: RunView, metrics: Sequence[str]) -> Iterator[ComparedSamples]:
    """The samples of the run by the metric that compares them."""
    samples = view.scores.assign(**{axis: NO_VALUE for axis in ("retriever",) if axis not in view.scores})
    settings = [axis for axis in varying_axes(samples, view.axes) if axis not in ("shots", "retriever", "decoding")]
    left = list(view.tasks)
    for metric in metrics or dict.fromkeys((*CAPTION_METRICS, view.metric, *view.metrics)):
        if metric not in view.metrics or better_of(view.scores, metric) == "neither":
            continue
        counts = samples.groupby("task")[metric].count()
        scored = [task for task in left if counts.get(task, 0)]
        left = [task for task in left if task not in scored]
        if scored:
            own = samples[samples["task"].isin(scored)]
            better = better_of(view.scores, metric)
            yield ComparedSamples(own, settings, metric, better, view.reference, view.controls)


def _columns(
    view: RunView, part: ComparedSamples, verdicts: Mapping[tuple[str, str], MethodVerdict]
) -> Iterator[tuple[str, LeaderboardColumn]]:
    """(task, column) of each subject that has a method."""
    per_forward = _seconds_per_forward(view)
    lower = " (lower is better)" if part.better == "lower" else ""
    for subject, rows in split_by_subject(part.samples, part.settings):
        names = [
            str(name) for name in axis_values(rows, "decoding") if name == part.base or name not in view.control_names
        ]
        if set(names) <= {part.base}:
            continue
        cells = {
            name: _cell(view, rows[rows["decoding"] == name], part, per_forward, verdicts.get((subject, name)))
            for name in sorted(names, key=lambda name: name != part.base)
        }
        model = str(view.fixed.get("model", "")) if "model" not in part.settings else ""
        task = str(rows["task"].iloc[0])
        yield (
            task,
            LeaderboardColumn(
                view.name,
                view.path,
                subject if part.settings else task,
                model,
                part.metric,
                f"{part.metric}{' accuracy' if part.metric in view.accuracies else ''}{lower}",
                int(rows["query"].nunique()),
                int(rows["seed"].nunique()),
                part.base,
                cells,
            ),
        )


def _cell(
    view: RunView, rows: DataFrame, part: ComparedSamples, per_forward: float, verdict: MethodVerdict | None
) -> LeaderboardCell:
    means = trace_means(view.frame.loc[rows.index])
    seconds = means["forwards"] * means["length"] * per_forward
    score, bounds = estimate_arm(rows, part.metric), bound_arm(rows, part.metric)
    return LeaderboardCell(score, bounds, means["forwards"], means["length"], seconds, verdict)


def _seconds_per_forward(view: RunView) -> float:
    """The time of the run over the forward passes that its answers report; NaN if one is unknown."""
    if "usage" not in view.frame:
        return nan
    used = [use for use in view.frame["usage"] if isinstance(use, Mapping) and "forwards" in use]
    total, seconds = sum(use["forwards"] for use in used), session_seconds(view.info)
    return seconds / total if total and seconds and len(used) == len(view.frame) - view.failed else nan


def _notes(view: RunView) -> Iterator[str]:
    yield from filter(None, (view.unfinished, view.mixed_versions))
    if view.failed:
        yield f"{view.failed} samples failed. They are in no number."
    bare = [name for name in dict.fromkeys(view.scores["decoding"]) if name in _uncontrolled(view)]
    if bare:
        yield f"{join_words(list(map(str, bare)))}: no control was run, so only the reference is compared."


def _uncontrolled(view: RunView) -> set[str]:
    return {str(name) for name in view.scores["decoding"]} - set(view.controls) - view.control_names - {view.reference}


def _label_notes(views: Sequence[RunView]) -> Iterator[str]:
    """A note for each label that names different decodings in different runs."""
    nodes: dict[str, set[str]] = {}
    for view in views:
        for label, cell in cells_by_label(view.frame, "decoding", Store(view.path)).items():
            nodes.setdefault(label, set()).add(str(cell.get("decoding")))
    for label, different in nodes.items():
        if len(different) > 1:
            yield f"{label} has other parameters in one run than in another: its row mixes {len(different)} settings."


def _ranked(columns: Sequence[LeaderboardColumn]) -> tuple[str, ...]:
    names = dict.fromkeys(name for column in columns for name in column.cells if name != column.reference)

    def rank(name: str) -> tuple[float, float]:
        cells = [column.cells[name].verdict for column in columns if name in column.cells]
        verdicts = [verdict for verdict in cells if verdict is not None]
        gains = [signed_gain(verdict.strongest or verdict.gain) for verdict in verdicts]
        finite = [gain for gain in gains if not isnan(gain)]
        mean = sum(finite) / len(finite) if finite else float("-inf")
        return -sum(verdict.standing == "beats" for verdict in verdicts), -mean

    return tuple(sorted(names, key=rank))
