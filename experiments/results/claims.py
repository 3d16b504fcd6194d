"""The claims of an experiment file, tested on its run: which survive, and with what interval.

A claim says that one arm is better, worse, higher or lower than another one. It is tested in each task and model, in
pairs of query, seed and all settings that the claim does not name. p is corrected together with all comparisons of the
report, in the topic "Claims".

    survives       the difference has the stated direction, and the corrected p is at most .05
    contradicted   it has the other direction, and the corrected p is at most .05
    ruled out      the simultaneous interval (level 1 - .05 / m over the m tested claims) has no difference of MARGIN or
                   more in the stated direction, or both arms answer the same by construction
    undecided      everything else: the data allow the claim and its opposite
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments.config.keys import BASELINE_KEY, DEMONSTRATION_AXES, ClaimSpec
from experiments.results.data_columns import ScoreView
from experiments.stats import DEFAULT_MARGIN, SIGNIFICANCE_LEVEL, ArmComparison, compare_arms, largest_plausible
from experiments.stats.arms import (
    better_of,
    describe_arm,
    find_baseline_column,
    iter_arms,
    matches_setting,
    resolve_setting,
    shared_settings,
    varying_axes,
)
from icl import ConfigError, DataFrame

MARGIN = DEFAULT_MARGIN
"""The smallest difference that counts for a claim."""
SUBJECT_AXES = ("task", "model")
ClaimVerdict = Literal["survives", "contradicted", "ruled out", "undecided", "not run"]


@dataclass(frozen=True)
class JudgedClaim:
    """A claim in one task and model.

    Attributes:
        claim: The claim.
        metric: Its metric.
        comparison: Its comparison, p corrected over the report.
        verdict: The verdict.
    """

    claim: ClaimSpec
    metric: str
    comparison: ArmComparison
    verdict: ClaimVerdict

    @property
    def reason(self) -> str:
        """Why the claim was not run; '' if it was."""
        if self.verdict != "not run":
            return ""
        return self.comparison.refused or f"'{self.claim.expect}' says nothing of {self.metric}: use higher or lower"


def declared_claims(info: Mapping[str, Any]) -> list[ClaimSpec]:
    """The claims in the config of a run."""
    return [ClaimSpec(**node) for node in (info.get("config") or {}).get("claims") or ()]


def compare_claims(view: ScoreView, level: float = 0.95) -> list[list[ArmComparison]]:
    """For each claim of the run its comparisons by task and model, p not corrected."""
    if view.is_sequential:
        return [[] for _ in declared_claims(view.info)]
    return [list(_compare(view, claim, level)) or [_refuse(claim)] for claim in declared_claims(view.info)]


def judge_claims(view: ScoreView) -> list[JudgedClaim]:
    """The claims of the run with their verdicts, in the order of the file. Empty for a run that is not finished."""
    claims = declared_claims(view.info)
    if not claims or view.is_sequential:
        return []
    corrected = iter(view.comparisons["Claims"])
    tested = sum(one.result is not None for one in view.comparisons["Claims"])
    level = 1 - SIGNIFICANCE_LEVEL / max(1, tested)
    wide = compare_claims(view, level)
    return [
        _judge(claim, claim.metric or view.metric, next(corrected), simultaneous, level)
        for claim, own in zip(claims, wide, strict=True)
        for simultaneous in own
    ]


def _compare(view: ScoreView, claim: ClaimSpec, level: float) -> Iterator[ArmComparison]:
    metric = claim.metric or view.metric
    try:
        arm, other, column = _resolve(view, claim, metric)
    except ConfigError as error:
        yield _refuse(claim, str(error))
        return
    scored = view.scores[view.scores[metric].notna()]
    if claim.tasks_with:
        there: Any = view.scores.groupby("task")[claim.tasks_with].count() if claim.tasks_with in view.metrics else {}
        scored = scored[[bool(there.get(task, 0)) for task in scored["task"]]]
    subjects = varying_axes(view.scores, [axis for axis in SUBJECT_AXES if axis not in arm])
    better = better_of(view.scores, metric)
    names = _describe(claim.arm), _describe(claim.against)
    for values, part in iter_arms(scored, subjects):
        subject = describe_arm(values) or str(arm.get("task", view.scores["task"].iloc[0]))
        mine = _matching(part, view.axes, arm)
        theirs = mine if column else _matching(part, view.axes, {**arm, **other})
        free = _pooled_axes(part, view.axes, (*arm, *other, *subjects), "shots" in other)
        both, _ = ((mine, mine), "") if column else shared_settings(theirs, mine, free)
        if len(both[0]) and len(both[1]):
            one = compare_arms(
                subject, names[0], names[1], both, metric, on=free, reference_metric=column, better=better, level=level
            )
            yield replace(one, decided=object())  # other metrics of the same arms are other hypotheses
        elif len(mine):
            yield ArmComparison(subject, *names, None, refused="the other arm was not run", better=better)


def _refuse(claim: ClaimSpec, reason: str = "no task has both arms with scores") -> ArmComparison:
    return ArmComparison("", _describe(claim.arm), _describe(claim.against), None, refused=reason)


def _resolve(view: ScoreView, claim: ClaimSpec, metric: str) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """(the arm, the axes in which the other one differs, the column of a baseline). Raises ConfigError if not run."""
    if metric not in view.metrics:
        raise ConfigError(f"the run has no score '{metric}'")
    arm = resolve_setting(view.scores, claim.arm, view.axes, "claims: arm")
    if BASELINE_KEY not in claim.against:
        return arm, resolve_setting(view.scores, claim.against, view.axes, "claims: against"), None
    name = str(claim.against[BASELINE_KEY])
    column = find_baseline_column(view.scores, name, metric)
    if column is None:
        raise ConfigError(f"the run has no baseline '{name}' by {metric}")
    return arm, {}, column


def _matching(part: DataFrame, axes: Sequence[str], setting: Mapping[str, Any]) -> DataFrame:
    rows = [i for arm, own in iter_arms(part[list(axes)], axes) if matches_setting(arm, setting) for i in own.index]
    return part.loc[rows]


def _pooled_axes(part: DataFrame, axes: Sequence[str], named: Sequence[str], shots_differ: bool) -> list[str]:
    """The axes over which pairs are pooled. If the shots differ, axes that 0 shots do not have are not."""
    without = (*named, *(DEMONSTRATION_AXES if shots_differ else ()))
    return [axis for axis in varying_axes(part, axes) if axis not in without]


def _describe(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {_label(value)}" for axis, value in setting.items())


def _label(value: Any) -> str:
    return str(value.get("label", value.get("name"))) if isinstance(value, Mapping) else str(value)


def _judge(claim: ClaimSpec, metric: str, one: ArmComparison, wide: ArmComparison, level: float) -> JudgedClaim:
    def judged(verdict: ClaimVerdict) -> JudgedClaim:
        return JudgedClaim(claim, metric, one, verdict)

    sign = expected_sign(claim, one)
    if one.result is None or not sign:
        return judged("not run")
    if one.by_construction:
        return judged("ruled out")
    if one.p <= SIGNIFICANCE_LEVEL and one.result.difference:
        return judged("survives" if one.result.difference * sign > 0 else "contradicted")
    assert wide.result is not None
    return judged("ruled out" if largest_plausible(wide.result, sign, level) < MARGIN else "undecided")


def expected_sign(claim: ClaimSpec, one: ArmComparison) -> int:
    """The sign of the difference that a claim states; 0 if 'better' or 'worse' says nothing of its metric."""
    if claim.expect in ("higher", "lower"):
        return 1 if claim.expect == "higher" else -1
    good = {"higher": 1, "lower": -1, "neither": 0}[one.better]
    return good if claim.expect == "better" else -good
