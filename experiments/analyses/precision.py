"""Does one way of choosing find more demonstrations with the right answer than another? Label precision, in pairs.

    precision   share of the k demonstrations whose answer is the query's gold, as in the analysis `retrieval`

A row an arm against its reference, as the run's `compare` says: the mean difference over the same queries, its interval
by a bootstrap over groups, p after Holm. Where tasks are folds (`held_out`), the first rows are of all folds together.
No model is needed: a fake serves as well.
"""

from typing import TYPE_CHECKING

from experiments.analyses.paired import against
from experiments.analyses.retrieval import measured
from experiments.analyses.samples import answered, records, table

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.report.view import View


def analyse(view: "View") -> "DataFrame":
    """Raises ConfigError where no arm has a reference."""
    rows = answered(view)
    share = [measured(row, int(row["shots"]))["precision"] for row in records(rows)]
    told = against(view, rows.assign(precision=share), "precision")
    names = ", ".join(f"{axis} {value}" for axis, value in view.to.items())
    return table(told, f"Label precision against {names}", signed=("difference", "low", "high"))
