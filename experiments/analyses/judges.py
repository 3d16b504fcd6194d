"""Can the judges of a run (metric `judge`) be trusted? The counts of their controls.

    gold      the accepted answer as the answer: right is expected
    empty     an empty answer: wrong is expected
    other     the answer of another query: wrong is expected
    swapped   answer and accepted answer in each other's place: the same verdict is expected

`expected` is the share of a perfect judge, and `share` is this judge's: of verdicts "right", or of equal verdicts for
`swapped`. A judge with equal shares for gold and empty answers measures nothing. Agreement with people needs labels:
`icl check metric judge ... --cases FILE`.
"""

from experiments import RunView, make_table
from experiments.running.judging import CONTROL_FILE
from experiments.stats import wilson
from experiments.store.store import read_mapping
from icl import DataFrame, StoreError

EXPECTED = {"gold": 1.0, "empty": 0.0, "other": 0.0, "swapped": 1.0}


def analyze(view: RunView) -> DataFrame:
    """One row per judge and control: the share of a perfect judge, the judge's share with its interval, and counts."""
    controls = read_mapping(view.path / CONTROL_FILE, "Run the experiment again to write it.")
    if not controls:
        raise StoreError(f"{view.path} has no judge: no metric of its config is 'judge', or no answer was judged yet.")
    rows = []
    for metric, by_control in controls.items():
        for control, counts in by_control.items():
            right, n = counts["right"], counts["n"]
            low, high = wilson(right, n) if n else (float("nan"), float("nan"))
            row = {"metric": metric, "control": control, "expected": EXPECTED[control]}
            numbers = {"share": right / n if n else float("nan"), "low": low, "high": high}
            rows.append({**row, **numbers, "verdicts": n, "unreadable": counts["unread"]})
    return make_table(rows, "Controls of the judges", note="share of verdicts 'right'; of equal verdicts for swapped")
