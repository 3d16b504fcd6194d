"""How do the outputs of each arm write their answers, how many give no answer, and what was cut?

    unread         `lenient` cannot read the output with certainty (`icl.metrics.reading`)
    no_answer      an empty output, an unclosed block, neither yes nor no, or no option, and not unread
    reasoned       the output has a reasoning block
    cut            the answer ended at `max_new_tokens`
    cut_thinking   the thinking was cut at `max_thinking_tokens`
    form           bare, emphasized, boxed, tagged, json, labeled, concluded or sentence
                   (`icl.metrics.machinery.answer_extraction`)

Where the forms differ between two arms, a difference of strict scores can be one of form, not of knowledge.
`format_gain` measures it.
"""

from math import isnan
from typing import Any, get_args

from experiments import RunView, answered_samples, make_table
from icl import DataFrame
from icl.metrics.machinery.answer_extraction import AnswerForm


def analyze(view: RunView) -> DataFrame:
    """One row per setting: mean strict and lenient scores, and the fraction of the outputs in each form that occurs."""
    answered_samples(view, with_demos=False)
    arms = view.arm_answers
    forms = [form for form in get_args(AnswerForm) if form != "none" and any(form in one.forms for one in arms)]
    some_thinking_cut = any(one.cut_thinking for one in arms)
    rows: list[dict[str, Any]] = []
    for one in arms:
        scores = {name: value for name, value in (("strict", one.strict), ("lenient", one.lenient)) if not isnan(value)}
        shares = {"unread": one.unread} if any(other.unread for other in arms) else {}
        shares |= {"no_answer": one.unparsed, "reasoned": one.reasoned, "cut": one.cut_answer}
        if some_thinking_cut:
            shares["cut_thinking"] = one.cut_thinking
        by_form = {form: one.forms.get(form, 0.0) for form in forms}
        rows.append({**one.arm, "n": one.count, **scores, **shares, **by_form})
    note = "no answer: empty, or none of the answers asked for; cut: at max_new_tokens"
    if some_thinking_cut:
        note += "; cut thinking: at max_thinking_tokens"
    return make_table(rows, "How the outputs write their answers", note=note)
