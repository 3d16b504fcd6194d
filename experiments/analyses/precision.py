"""Does one way of choosing find more demonstrations with the right answer than another? Label precision, in pairs.

    precision   share of the k demonstrations whose answer is the query's gold, as in the analysis `retrieval`

A row an arm against its reference, as the run's `compare` says: the mean difference over the same queries, its interval
by a bootstrap over groups, p after Holm. No model is needed: a fake serves as well.
"""

from typing import TYPE_CHECKING, Any

from experiments.analyses.retrieval import measured
from experiments.analyses.samples import answered, records, table
from experiments.stats.arms import varying
from experiments.stats.compare import compare

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.report.view import View


def analyse(view: "View") -> "DataFrame":
    """Raises ConfigError where no arm has a reference."""
    rows = answered(view)
    share = [measured(row, int(row["shots"]))["precision"] for row in records(rows)]
    found = compare(rows.assign(precision=share), view.to, "precision", axes=view.axes, correct=view.correct)
    told = [axis for axis in view.axes if axis in ("task", "shots") or axis in varying(found, view.axes)]
    lines: list[dict[str, Any]] = []
    for row in found.to_dict("records"):
        means = {"reference": float(row["reference_mean"]), "precision": float(row["mean"])}
        tested = {key: float(row[key]) for key in ("difference", "low", "high")}
        lines.append(
            {
                **{axis: row[axis] for axis in told},
                **means,
                **tested,
                "p": float(row["p_corrected"]),
                "n": int(row["pairs"]),
            }
        )
    against = ", ".join(f"{axis} {value}" for axis, value in view.to.items())
    return table(lines, f"Label precision against {against}", signed=("difference", "low", "high"))
