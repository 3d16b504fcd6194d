"""Does one way of choosing find more demonstrations with the right answer than another? Label precision, in pairs.

    precision   share of the k demonstrations whose answer is the query's gold, as in the analysis `retrieval`

A row an arm against its reference, as the run's `compare` says: the mean difference over the same queries, its interval
and p by flipping groups, p after Holm. Arms that differ in order, composer, decoding or scoring alone show the same
demonstrations (`more_demonstrations` aside) and are one arm here, the first of them; a reference that differs in
nothing else is refused. Where tasks are folds (`held_out`), the first rows are of all folds together.
No model is needed: a fake serves as well.
"""

from typing import TYPE_CHECKING

from experiments.analyses.distinct_choices import distinct_choices
from experiments.analyses.reference_comparison import compare_with_reference
from experiments.analyses.retrieval import retrieval_statistics
from experiments.analyses.shared import answered_samples, make_table
from experiments.stats.sample_rows import to_records

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """Raises ConfigError where no arm has a reference that can have chosen otherwise."""
    chosen, rows = distinct_choices(view, answered_samples(view), "what is retrieved")
    share = [retrieval_statistics(row, int(row["shots"]))["precision"] for row in to_records(rows)]
    comparison = compare_with_reference(chosen, rows.assign(precision=share), "precision")
    names = ", ".join(f"{axis} {value}" for axis, value in chosen.to.items())
    return make_table(comparison, f"Label precision against {names}", signed=("difference", "low", "high"))
