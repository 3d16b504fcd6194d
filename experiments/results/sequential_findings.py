"""Sentences about comparisons of a run that was looked at while it grew: valid at any time, without fixed-size p.

    with `stop`      the verdicts of the looks (`experiments.stopping`)
    an unfinished    the difference of each arm from its reference on the clusters that both have, with an interval that
    run without it   is valid at any time. It is that of a plan with the default rule: the looks are after each
                     twentieth of the planned clusters, in the order in which the pairs were completed.

An ordinary p-value of a run that is looked at while it grows is not valid: exact McNemar after each 10 of 200 queries
finds a difference between equal arms in 13.6 % of runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.keys import StopSpec
from experiments.stats.arm_comparisons import Verdict
from experiments.stats.arms import UNIT, Arm, describe_arm, iter_arms, reference_of, varying_axes
from experiments.stats.findings import Finding
from experiments.stats.formatting import format_interval, format_p, format_signed
from experiments.stats.pairs import KEYS, align_pairs, paired_test
from experiments.stats.run_statistics import drop_scores, sample_ref_column
from experiments.stats.sequential import look_sizes, repeated_interval, z_boundaries
from experiments.stats.stopping_rule import DEFAULT_LOOKS, Standing
from experiments.stopping.comparisons import PlannedComparison
from experiments.stopping.records import FamilyRecord
from icl.metrics.base import Better

if TYPE_CHECKING:
    from pandas import DataFrame

WARNING = (
    "The run is not finished, so there are no p-values: looking at them while a run grows finds differences between "
    "equal arms too often (13.6 % instead of 5 % with a look after every 10 of 200 queries). The intervals hold at any "
    "time. `stop: when_decided` gives verdicts while a run grows."
)


def stopped_findings(
    families: Sequence[FamilyRecord], samples: "DataFrame", metric: str, better: Better
) -> list[Finding]:
    """One sentence per comparison of a run with `stop`.

    Args:
        families: The families of the run.
        samples: The samples, tidy.
        metric: The metric of the report.
        better: Its good direction.
    """
    findings = []
    for number, family in enumerate(families, 1):
        prefix = f"family {number} of {len(families)}, " if len(families) > 1 else ""
        if family.plan.metric != metric:
            claim = f"the comparisons were planned for {family.plan.metric}: nothing was decided by {metric}"
            findings.append(Finding("Comparisons", f"{prefix}{metric}", claim, "", "", "open"))
            continue
        for one, standing in zip(family.plan.comparisons, family.standings, strict=True):
            findings.append(_finding(prefix, family, one, standing, samples=samples, better=better))
    return findings


def looks_frame(families: Sequence[FamilyRecord], better: Mapping[str, Better]) -> "DataFrame":
    """One row per comparison (`experiments.results.loaded_run.Run.looks`). better: metric -> its good direction."""
    import pandas as pd

    fields = ("clusters", "pairs", "p", "difference", "low", "high")
    rows = [
        {
            "family": number,
            "task": one.task,
            "arm": one.name,
            "reference": one.against,
            "verdict": verdict_of_standing(standing, better.get(family.plan.metric, "higher")),
            "end": standing.end,
            "look": standing.look,
            **{name: getattr(standing.result, name, np.nan) for name in fields},
            "chance": standing.chance,
        }
        for number, family in enumerate(families, 1)
        for one, standing in zip(family.plan.comparisons, family.standings, strict=True)
    ]
    columns = ["family", "task", "arm", "reference", "verdict", "end", "look", *fields, "chance"]
    return pd.DataFrame(rows, columns=columns)


def restrict_samples(samples: "DataFrame", queries: Mapping[str, set[str]]) -> "DataFrame":
    """The samples of these queries of each task. Run-level metrics are computed again on them."""
    keep = np.array(
        [query in queries.get(str(task), ()) for task, query in zip(samples["task"], samples["query"], strict=True)]
    )
    run_level = [str(column) for column in samples if sample_ref_column(str(column)) in samples]
    attrs, rest = samples.attrs, drop_scores(samples, ~keep, run_level)[keep].reset_index(drop=True)
    rest.attrs = attrs
    return rest


def _finding(
    prefix: str,
    family: FamilyRecord,
    one: PlannedComparison,
    standing: Standing,
    *,
    samples: "DataFrame",
    better: Better,
) -> Finding:
    verdict = verdict_of_standing(standing, better)
    words = f"equal within {format_signed(family.plan.spec.margin or 0)[1:]}" if verdict == "equal" else verdict
    words = "open so far" if standing.end == "running" else "different" if verdict == "differs" else words
    claim, result = f"{one.name} against {one.against}: {words}", standing.result
    subject = f"{prefix}{one.task}"
    if result is None:
        return Finding("Comparisons", subject, claim, "", "There was no look at it yet.", "open")
    planned = family.plan.clusters[one.task]
    unit = "queries" if max(map(len, planned.values())) == 1 else "groups"
    look = f"look {min(standing.look, family.plan.num_looks)} of {family.plan.num_looks}"
    at = f"{look} ({result.clusters:,} of {len(planned):,} {unit})"
    holm = f" (Holm over {family.plan.family})" if family.plan.family > 1 and family.plan.spec.margin is None else ""
    if standing.end == "decided":
        state = f"p ≤ {f'{result.p:.2g}'.removeprefix('0')} at any time{holm}"
    elif result.time < 1 and not isnan(standing.chance):
        state = f"chance of a verdict {standing.chance:.0%}".replace("%", " %")
    else:
        state = "no verdict"
    interval = "no interval" if isnan(result.low) else f"at any time {format_interval(result.low, result.high)}"
    numbers = f"{at}, {state}; {format_signed(result.difference)}, {interval}"
    more = "Differences of early stops are too large on average." if standing.end == "decided" else ""
    if result.time >= 1:
        more = _as_one_look(one, samples, family.plan.metric)
    return Finding("Comparisons", subject, claim, numbers, more, verdict)


def _as_one_look(one: PlannedComparison, samples: "DataFrame", metric: str) -> str:
    """The usual test, where both arms have all clusters. It is in no verdict."""
    sides = [samples[samples["cell"].isin(digests)] for digests in (one.reference, one.arm)]
    if not all(len(side) for side in sides):
        return ""
    pairs = align_pairs(sides[0], sides[1], metric)
    if not len(pairs):
        return ""
    result = paired_test(pairs)
    return f"As one look: {format_p(result.p)}, {format_interval(result.low, result.high)}."


def verdict_of_standing(standing: Standing, better: Better) -> Verdict:
    """The verdict of a comparison in the words of reports: better, worse, differs, equal or open."""
    if standing.end == "equal":
        return "equal"
    if standing.end != "decided" or standing.result is None:
        return "open"
    if better == "neither":
        return "differs"
    return "better" if (standing.result.side > 0) == (better == "higher") else "worse"


def anytime_findings(
    scores: "DataFrame",
    to: Mapping[str, Any],
    metric: str,
    axes: Sequence[str],
    *,
    planned: Mapping[str, int],
) -> list[Finding]:
    """One sentence per arm of an unfinished run without `stop`: its difference so far, with an interval.

    Args:
        scores: The samples, tidy, in the order of their completion.
        to: The setting of the reference.
        metric: The metric.
        axes: The axes.
        planned: Task -> the number of clusters that the run will have.
    """
    findings = [Finding("Comparisons", "this run", WARNING, "", "", "open")]
    return [*findings, *_anytime(scores, to, metric, axes, planned)] if to else findings


def _anytime(
    scores: "DataFrame", to: Mapping[str, Any], metric: str, axes: Sequence[str], planned: Mapping[str, int]
) -> Iterator[Finding]:
    labels = [axis for axis in varying_axes(scores, axes) if axis != "task"]
    for arm, theirs, mine in _with_references(scores, to, axes):
        task = str(arm.get("task", "this run"))
        reference = {axis: theirs[axis].iloc[0] for axis in axes}
        claim = f"{describe_arm(arm, labels)} against {describe_arm(reference, labels)}, so far"
        numbers = _so_far(scores[scores["task"] == arm["task"]], theirs, mine, metric, planned.get(task, 0))
        yield Finding("Comparisons", task, claim, numbers, "", "open")


def _so_far(scores: "DataFrame", reference: "DataFrame", arm: "DataFrame", metric: str, planned: int) -> str:
    """The difference on the clusters of the last look, and its interval."""
    if sample_ref_column(metric) in scores:
        return "a run-level metric, which needs the whole run"
    sums, sizes = complete_clusters(scores, reference, arm, metric)
    planned = max(planned, len(sums))
    looks = look_sizes(planned, DEFAULT_LOOKS)
    done = [n for n in looks if n <= len(sums)]
    if not done:
        return f"{len(sums):,} of {planned:,} clusters are complete in both arms, too few for an interval"
    n, spec = done[-1], StopSpec()
    c = z_boundaries(tuple(size / planned for size in looks), spec.level, spec.spend)[len(done) - 1]
    low, high = repeated_interval(sums[:n], sizes[:n], c)
    difference = float(sums[:n].sum() / max(1.0, sizes[:n].sum()))
    interval = f"{format_signed(difference)}, at any time {format_interval(low, high)}"
    return f"{interval}, n = {n:,} of {planned:,} clusters"


def discordance_by_task(
    scores: "DataFrame", to: Mapping[str, Any], metric: str, axes: Sequence[str]
) -> dict[str, float]:
    """Task -> the mean share of clusters on which an arm and its reference have other scores."""
    shares: dict[str, list[float]] = {}
    for arm, theirs, mine in _with_references(scores, to, axes):
        sums, _ = complete_clusters(scores[scores["task"] == arm["task"]], theirs, mine, metric)
        if len(sums):
            shares.setdefault(str(arm["task"]), []).append(float(np.mean(sums != 0)))
    return {task: float(np.mean(own)) for task, own in shares.items()}


def _with_references(
    scores: "DataFrame", to: Mapping[str, Any], axes: Sequence[str]
) -> "Iterator[tuple[Arm, DataFrame, DataFrame]]":
    """(arm, samples of its reference, its samples) of each arm that has a reference."""
    arms = list(iter_arms(scores, axes))
    for arm, mine in arms if to else ():
        reference = reference_of(arm, to, [other for other, _ in arms])
        if reference is not None:
            yield arm, next(rows for other, rows in arms if other == reference), mine


def complete_clusters(
    scores: "DataFrame", reference: "DataFrame", arm: "DataFrame", metric: str
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """([n] sums, [n] numbers of pairs) of the clusters whose samples both arms have, in the order of completion.

    The place of a cluster is the later one of its two arms, which does not depend on their names.
    """
    every = scores.drop_duplicates(list(KEYS)).groupby(UNIT).size()
    keys = [UNIT, *KEYS]
    sides = [side[[*keys, metric]].assign(place=np.arange(len(side))) for side in (reference, arm)]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_reference", "_arm"))
    both["place"] = both[["place_reference", "place_arm"]].max(axis=1)
    counts, places = both.groupby(UNIT).size(), both.groupby(UNIT)["place"].max()
    complete = counts.index[counts == every.reindex(counts.index)]
    order = {unit: i for i, unit in enumerate(places[complete].sort_values().index)}
    both = both[both[UNIT].isin(order)]
    differences = both[f"{metric}_arm"] - both[f"{metric}_reference"]
    valid = differences.notna().to_numpy()
    codes = both[UNIT].map(order).to_numpy(dtype=np.intp)
    if not order:
        return np.zeros(0), np.zeros(0)
    sums = np.bincount(codes, weights=differences.fillna(0.0), minlength=len(order))
    return sums.astype(np.float64), np.bincount(codes[valid], minlength=len(order)).astype(np.float64)
