"""Does a retriever choose more demonstrations with the right answer than another? Label precision in pairs.

    precision   share of the k demonstrations whose answer is the query's gold answer, as in the analysis `retrieval`

One row per arm against its reference (the run's `compare`): the mean difference over the same queries, its interval and
p from sign flips of groups, with Holm. Arms that differ only in order, composer, decoding or scoring have the same
demonstrations (except `more_demonstrations`) and count as one arm, the first of them. A reference that differs in
nothing else is refused. If tasks are folds (`held_out`), the first rows are over all folds together. The model does not
matter, so a fake model suffices.
"""

from experiments import RunView, answered_samples, make_table
from experiments.analyses.reference_comparison import compare_with_reference, distinct_choices
from experiments.analyses.retrieval import retrieval_statistics
from experiments.stats import to_records
from icl import DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per arm with a reference. Raises ConfigError if no reference has other demonstrations."""
    chosen, rows = distinct_choices(view, answered_samples(view), "what is retrieved")
    share = [retrieval_statistics(row, int(row["shots"]))["precision"] for row in to_records(rows)]
    comparison = compare_with_reference(chosen, rows.assign(precision=share), "precision")
    names = ", ".join(f"{axis} {value}" for axis, value in chosen.to.items())
    return make_table(comparison, f"Label precision against {names}", signed=("difference", "low", "high"))
