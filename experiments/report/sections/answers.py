"""Answers: how the outputs of each arm are written, and what gives no answer."""

from experiments.report.section import Column, Section
from experiments.results.arm_answers import is_unremarkable
from experiments.results.run_view import RunView
from experiments.stats.arms import deciding_digests, iter_arms

SHARES = {"unparsed": "no answer", "cut_answer": "answer cut", "cut_thinking": "thinking cut"}


def answers_section(view: RunView) -> Section | None:
    """A row for each arm. An arm is hidden if its answers are another arm's by construction."""
    import pandas as pd

    if not (arms := view.arm_answers):
        return None
    axes = list(arms[0].arm)
    decided = {tuple(arm[x] for x in axes): deciding_digests(own) for arm, own in iter_arms(view.scores, axes)}
    frame = pd.DataFrame([{**one.arm, **vars(one), "forms": one.wrapping} for one in arms])
    frame = frame[[*axes, "count", "strict", "lenient", *SHARES, "forms"]]
    keys = pd.Series([decided.get(tuple(one.arm[x] for x in axes)) or place for place, one in enumerate(arms)])
    frame["repeated"] = keys.duplicated()
    visible = frame[~frame["repeated"]]
    labels = [axis for axis in axes if axis != "task" and visible[axis].nunique() > 1] or axes[-1:]
    shares = [name for name in SHARES if name == "unparsed" or visible[name].gt(0).any()]
    columns = [
        *map(Column, labels),
        Column("strict", kind="share"),
        Column("lenient", kind="share"),
        *(Column(name, SHARES[name], "share") for name in shares),
        Column("forms"),
    ]
    notes = [
        "strict: the whole output is an accepted answer. lenient: the output gives one in any form. answer cut: it "
        "ended at max_new_tokens.",
        "Arms with the answers of another by construction are left out." if frame["repeated"].any() else "",
    ]
    summary = f"All arms write their answers alike ({arms[0].wrapping}), and every output gives an answer."
    folded = (
        summary if is_unremarkable(arms) else "; ".join(view.answer_notes) or "The arms write their answers differently"
    )
    return Section(
        "answers", "Answers", frame=frame, columns=columns, parts="task", hidden="repeated", notes=notes, folded=folded
    )
