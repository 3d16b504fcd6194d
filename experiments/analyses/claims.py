"""Which claims of the experiment file survive? Each is tested in every task and model of the run.

    difference   the score of the claim's arm minus the other arm's score, paired, with its 95 % interval
    p            corrected over all comparisons of the report
    verdict      survives, contradicted, ruled out (no difference of .02 or more in the stated direction), undecided,
                 not run (and why)

The key `claims` of the experiment file has the claims (`experiments.results.claims`). Intervals are not corrected,
except that "ruled out" rests on an interval that is widened for the number of claims.
"""

from typing import Any

from experiments import RunView, make_table
from experiments.results.claims import judge_claims
from icl import ConfigError, DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per claim, task and model. Raises ConfigError if the run has no claims, or is not finished."""
    if view.is_sequential:
        raise ConfigError(f"{view.path}: {view.sequential_note}")
    judged = judge_claims(view)
    nan = float("nan")
    rows = []
    for one in judged:
        result = one.comparison.result
        rows.append(
            {
                "claim": one.claim.claim,
                "where": one.comparison.subject,
                "metric": one.metric,
                "difference": result.difference if result else nan,
                "low": result.low if result else nan,
                "high": result.high if result else nan,
                "p": one.comparison.p if result else nan,
                "n": result.pairs if result else 0,
                "verdict": f"{one.verdict}: {one.reason}" if one.reason else one.verdict,
                "source": one.claim.source,
            }
        )
    metrics = {one.metric for one in judged if one.comparison.result}
    figure: dict[str, Any] | None = None  # differences of several metrics have no common scale
    if len(metrics) == 1:
        measure = f"difference of {' '.join(metrics)}, the arm minus the other"
        figure = {"x": "claim", "y": ["difference"], "by": "where", "measure": measure, "n": "pairs"}
    return make_table(
        rows,
        "Claims",
        note="p: corrected over all comparisons of the report",
        signed=("difference", "low", "high"),
        missing=f"{view.path}: the experiment file of this run has no key `claims`. `icl ls configs debunk` has an "
        "example.",
        figure=figure,
    )
