"""How do the outputs of each arm write their answers, and how many have none?

    form      bare, emphasized, boxed, tagged, json, labeled, concluded or sentence (`icl.metrics.answer_extraction`)
    none      no answer was found: an empty output, or a reasoning block that never closes
    reasoned  the output has a reasoning block
    cut       the output ended at the limit of new tokens

Where the forms differ between two arms, a difference of strict scores is one of form, not of knowledge.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from experiments.analyses.shared import answered_samples, iter_settings, make_table
from experiments.stats.sample_rows import to_records
from icl.metrics.answer_extraction import AnswerForm, extract_answer

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
    """One row per setting: mean strict and lenient scores, and the fraction of the outputs in each form that occurs."""
    scores = [metric for metric in ("strict", "lenient") if metric in view.sample_metrics]
    counted = []
    for setting, samples in iter_settings(view, answered_samples(view, with_demos=False)):
        rows = to_records(samples)
        answers = [extract_answer(str(row.get("output") or "")) for row in rows]
        facts: dict[str, Any] = {**setting, "n": len(rows)} | {name: float(samples[name].mean()) for name in scores}
        facts["reasoned"] = sum(answer.reasoned for answer in answers) / len(rows)
        facts["cut"] = sum(row.get("finish") == "length" for row in rows) / len(rows)
        counted.append((facts, Counter(answer.form for answer in answers)))
    forms = [form for form in get_args(AnswerForm) if form == "none" or any(counts[form] for _, counts in counted)]
    table_rows = [facts | {form: counts[form] / facts["n"] for form in forms} for facts, counts in counted]
    return make_table(table_rows, "How the outputs write their answers", note="none: no answer was found")
