"""Sentences about comparisons of a run that was looked at while it grew: valid at any time, without fixed-size p.

    with `stop`      the verdicts of the looks
    an unfinished    the difference of each arm from its reference on the clusters that both have, with an interval that
    run without it   is valid at any time. It follows a plan with the default rule: the looks are after each
                     twentieth of the planned clusters, in the order in which the pairs were completed.

An ordinary p-value of a run that is looked at while it grows is not valid: exact McNemar after each 10 of 200 queries
finds a difference between equal arms in 13.6 % of runs.

With unread outputs every difference is a range, from the low end to the high end (`experiments.stats.bounds`).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Literal

import numpy as np

from experiments.config.keys import StopSpec
from experiments.stats import KEYS, Finding, Verdict, format_interval, format_p, format_signed, is_run_level
from experiments.stats.arms import UNIT, describe_arm, iter_compared_arms, varying_axes
from experiments.stats.bounds import pair_ends, unread_texts
from experiments.stats.sign_flips import paired_proportions_test, sign_flip_test
from experiments.stopping.looks import Family
from experiments.stopping.rule import DEFAULT_LOOKS, Standing
from experiments.stopping.sequential import Floats, look_sizes, repeated_interval, z_boundaries
from icl import Better, DataFrame, pd

WARNING = (
    "The run is not finished, so there are no p-values: looking at them while a run grows finds differences between "
    "equal arms too often (13.6 % instead of 5 % with a look after every 10 of 200 queries). The intervals hold at any "
    "time. `stop: when_decided` gives verdicts while a run grows."
)


def stopped_findings(families: Sequence[Family], metric: str, better: Better) -> list[Finding]:
    """One sentence per comparison of a run with `stop`.

    Args:
        families: The families of the run.
        metric: The metric of the report.
        better: Its good direction.
    """
    findings = []
    for number, family in enumerate(families, 1):
        prefix = f"family {number} of {len(families)}, " if len(families) > 1 else ""
        if family.plan.metric == metric:
            findings += [_finding(prefix, family, i, better) for i in range(family.plan.family)]
        else:
            claim = f"the comparisons were planned for {family.plan.metric}: nothing was decided by {metric}"
            findings.append(Finding("Comparisons", f"{prefix}{metric}", claim, "", "", "open"))
    return findings


def looks_frame(families: Sequence[Family], better: Mapping[str, Better]) -> DataFrame:
    """One row per comparison (`experiments.results.loaded_run.Run.looks`). better: metric -> its good direction.

    The difference of a comparison with unread outputs is NaN; low and high hold for every reading of them.
    """
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
            **({"difference": np.nan} if _difference_ends(family, i) else {}),
            "chance": standing.chance,
        }
        for number, family in enumerate(families, 1)
        for i, (one, standing) in enumerate(zip(family.plan.comparisons, family.standings, strict=True))
    ]
    columns = ["family", "task", "arm", "reference", "verdict", "end", "look", *fields, "chance"]
    return pd.DataFrame(rows, columns=columns)


def verdict_of_standing(standing: Standing, better: Better) -> Verdict:
    """The verdict of a comparison in the words of reports: better, worse, differs, equal or open."""
    if standing.end == "equal":
        return "equal"
    if standing.end != "decided" or standing.result is None:
        return "open"
    if better == "neither":
        return "differs"
    return "better" if (standing.result.side > 0) == (better == "higher") else "worse"


def _finding(prefix: str, family: Family, i: int, better: Better) -> Finding:
    plan, one, standing = family.plan, family.plan.comparisons[i], family.standings[i]
    verdict = verdict_of_standing(standing, better)
    words = f"equal within {format_signed(plan.stop.margin or 0)[1:]}" if verdict == "equal" else verdict
    words = "open so far" if standing.end == "running" else "different" if verdict == "differs" else words
    claim, subject, result = f"{one.name} against {one.against}: {words}", f"{prefix}{one.task}", standing.result
    if result is None:
        return Finding("Comparisons", subject, claim, "", "There was no look at it yet.", "open")
    planned, unit = len(plan.clusters[one.task]), "groups" if plan.has_groups(one.task) else "queries"
    at = f"look {min(standing.look, plan.num_looks)} of {plan.num_looks} ({result.clusters:,} of {planned:,} {unit})"
    if standing.end == "decided":
        holm = f" (Holm over {plan.family})" if plan.family > 1 and plan.stop.margin is None else ""
        state = f"p ≤ {f'{result.p:.2g}'.removeprefix('0')} at any time{holm}"
    elif result.time < 1 and not isnan(standing.chance):
        state = f"chance of a verdict {standing.chance:.0%}".replace("%", " %")
    else:
        state = "no verdict"
    interval = "no interval" if isnan(result.low) else f"at any time {format_interval(result.low, result.high)}"
    more = "Differences of early stops are too large on average." if standing.end == "decided" else ""
    if result.time >= 1:
        more = _as_one_look(family, i)
    ends = _difference_ends(family, i)
    if ends and plan.is_run_level:
        interval = "no interval"
    difference = _signed_range(*ends) if ends else format_signed(result.difference)
    numbers = f"{at}, {state}; {difference}, {interval}"
    if unread := sum(entry.unread for entry in family.entries[i]):
        numbers += f"; {unread:,} outputs unread, counted as wrong and as right"
    return Finding("Comparisons", subject, claim, numbers, more, verdict)


def _as_one_look(family: Family, i: int) -> str:
    """The usual test of a comparison that has all clusters. It is in no verdict."""
    sums, sizes = family.sums(i)
    if family.plan.is_run_level or not sizes.any():
        return ""
    test = paired_proportions_test if family.plan.metric_node.get("accuracy") else sign_flip_test
    low = high = test(sums[sizes > 0], sizes[sizes > 0])
    if ends := _difference_ends(family, i):
        high = test(family.sums(i, high=True)[0][sizes > 0], sizes[sizes > 0])
        p = low.p if ends[0] > 0 else high.p if ends[1] < 0 else 1.0
        low = low._replace(p=p)
    return f"As one look: {format_p(low.p)}, {format_interval(low.low, high.high)}."


def _difference_ends(family: Family, i: int) -> tuple[float, float] | None:
    """The mean difference at both ends; None if every output is read. A run-level metric can have any."""
    if not any(entry.unread for entry in family.entries[i]):
        return None
    if family.plan.is_run_level:
        return -1.0, 1.0
    (low, sizes), (high, _) = family.sums(i), family.sums(i, high=True)
    number = max(1.0, float(sizes.sum()))
    return float(low.sum()) / number, float(high.sum()) / number


def _signed_range(low: float, high: float) -> str:
    """'+.021', or '−.200 to +.370' if the ends differ."""
    return " to ".join(dict.fromkeys(map(format_signed, (low, high))))


def anytime_findings(
    scores: DataFrame,
    to: Mapping[str, Any],
    metric: str,
    axes: Sequence[str],
    *,
    planned: Mapping[str, int],
) -> Iterator[Finding]:
    """One sentence per arm of an unfinished run without `stop`: its difference so far, with an interval.

    Args:
        scores: The samples, tidy, in the order of their completion.
        to: The setting of the reference.
        metric: The metric.
        axes: The axes.
        planned: Task -> the number of clusters that the run will have.
    """
    yield Finding("Comparisons", "this run", WARNING, "", "", "open")
    labels = [axis for axis in varying_axes(scores, axes) if axis != "task"]
    for arm, reference, theirs, mine in iter_compared_arms(scores, to, axes):
        task = str(arm.get("task", "this run"))
        claim = f"{describe_arm(arm, labels)} against {describe_arm(reference, labels)}, so far"
        numbers = "a run-level metric, which needs the whole run"
        if not is_run_level(scores, metric):
            own = scores[scores["task"] == arm["task"]], theirs, mine, metric
            (low, sizes), (high, _) = complete_clusters(*own, end="low"), complete_clusters(*own, end="high")
            numbers = _so_far(low, high, sizes, planned.get(task, 0))
        yield Finding("Comparisons", task, claim, numbers, "", "open")


def _so_far(low: Floats, high: Floats, sizes: Floats, planned: int) -> str:
    """The difference on the clusters of the last look, and its interval. low, high: the sums at both ends."""
    planned = max(planned, len(low))
    looks = look_sizes(planned, DEFAULT_LOOKS)
    done = [n for n in looks if n <= len(low)]
    if not done:
        return f"{len(low):,} of {planned:,} clusters are complete in both arms, too few for an interval"
    n, spec = done[-1], StopSpec()
    c = z_boundaries(tuple(size / planned for size in looks), spec.level, spec.spend)[len(done) - 1]
    ends = [repeated_interval(sums[:n], sizes[:n], c) for sums in (low, high)]
    interval = format_interval(ends[0][0], ends[1][1])
    difference = _signed_range(*(float(sums[:n].sum() / max(1.0, sizes[:n].sum())) for sums in (low, high)))
    return f"{difference}, at any time {interval}, n = {n:,} of {planned:,} clusters"


def discordance_by_task(scores: DataFrame, to: Mapping[str, Any], metric: str, axes: Sequence[str]) -> dict[str, float]:
    """Task -> the mean share of clusters on which an arm and its reference have other scores."""
    shares: dict[str, list[float]] = {}
    for arm, _, theirs, mine in iter_compared_arms(scores, to, axes):
        sums, _ = complete_clusters(scores[scores["task"] == arm["task"]], theirs, mine, metric)
        if len(sums):
            shares.setdefault(str(arm["task"]), []).append(float(np.mean(sums != 0)))
    return {task: float(np.mean(own)) for task, own in shares.items()}


def complete_clusters(
    scores: DataFrame,
    reference: DataFrame,
    arm: DataFrame,
    metric: str,
    *,
    end: Literal["low", "high"] | None = None,
) -> tuple[Floats, Floats]:
    """([n] sums, [n] numbers of pairs) of the clusters whose samples both arms have, in the order of completion.

    The place of a cluster is the later one of its two arms, which does not depend on their names. end: count unread
    outputs against the arm, or for it, in place of the metric's own scores.
    """
    keys = [UNIT, *KEYS]
    left, right = (
        side[[*keys, metric]].assign(place=np.arange(len(side)), unread=unread_texts(side, metric))
        for side in (reference, arm)
    )
    both = left.merge(right, on=keys)
    both["place"] = both[["place_x", "place_y"]].max(axis=1)
    both["difference"] = both[f"{metric}_y"] - both[f"{metric}_x"]
    if end:
        columns = (both[f"{name}_{side}"].to_numpy() for name in (metric, "unread") for side in "xy")
        ends = pair_ends(*columns)[int(end == "high")]
        both["difference"] = both["difference"].where(both["difference"].isna(), ends)
    clusters = both.groupby(UNIT).agg(
        samples=("place", "size"), place=("place", "max"), sum=("difference", "sum"), pairs=("difference", "count")
    )
    every = scores.drop_duplicates(list(KEYS)).groupby(UNIT).size().reindex(clusters.index)
    done = clusters[clusters["samples"] == every].sort_values("place", kind="stable")
    return done["sum"].to_numpy(np.float64), done["pairs"].to_numpy(np.float64)
