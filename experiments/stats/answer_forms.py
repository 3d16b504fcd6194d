"""How the outputs of arms write their answers, how many give none, and where two arms differ in that.

Two arms that know the same can write it differently: "**red**" at 0 shots, "red" after demonstrations. A strict metric,
or one that reads the first line, then reports a gain of knowledge that is a gain of format.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from experiments.stats.sample_rows import as_sequence
from icl.metrics.machinery.answer_extraction import AnswerForm, extract_answer
from icl.metrics.machinery.yes_no import read_yes_no
from icl.metrics.normalize import normalize_text

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FORM = "answer_form"
"""The column with the form of each output (`AnswerForm` of `answer_extraction`); missing for a failed sample."""

REASONED = "reasoned"
"""The column that says whether an output has a reasoning block."""

MIN_DIFFERENCE = 0.1
"""The smallest share of outputs in other forms that counts as a difference of two arms."""

MIN_SHARE = 0.02
"""A form of fewer outputs is not named in a sentence."""


def answer_forms(frame: "DataFrame") -> "dict[str, Series[Any]]":
    """The columns FORM and REASONED of samples with `output` and `failed`."""
    outputs = frame["output"].astype(object).where(frame["output"].notna(), "")
    answers = {text: extract_answer(str(text)) for text in outputs.unique()}
    answered = frame["failed"].isna() if "failed" in frame else outputs.notna()
    forms = outputs.map({text: answer.form for text, answer in answers.items()})
    reasoned = outputs.map({text: answer.reasoned for text, answer in answers.items()})
    return {FORM: forms.where(answered, None), REASONED: reasoned & answered}


def unparsed_outputs(frame: "DataFrame", forms: "Series[Any]", named: "Series[bool] | None") -> "Series[bool]":
    """Whether each output gives no answer that a metric could read.

    Either it has none, or the question asks for yes or no or for an option, and the output does not name one.

    Args:
        frame: The samples.
        forms: The column FORM of `answer_forms`.
        named: The result of `experiments.stats.floor_effects.names_option`.
    """
    import pandas as pd

    named = pd.Series(True, index=frame.index) if named is None else named.reindex(frame.index, fill_value=True)
    gold = frame["gold"].tolist() if "gold" in frame else [()] * len(frame)
    kinds = {id(own): _asks_yes_no(own) for own in gold}
    questions = frame["question"].tolist() if "question" in frame else [""] * len(frame)
    flags = []
    for output, form, own, is_named, question in zip(
        frame["output"].tolist(), forms, gold, named, questions, strict=True
    ):
        is_read = (
            read_yes_no(str(output), question=question if isinstance(question, str) else "") is not None
            if kinds[id(own)]
            else bool(is_named)
        )
        flags.append(form == "none" or not (is_read or pd.isna(form)))
    return pd.Series(flags, index=frame.index, dtype=bool)


def _asks_yes_no(gold: Any) -> bool:
    answers = {normalize_text(str(answer)) for answer in as_sequence(gold)}
    return bool(answers) and answers <= {"yes", "no"}


def form_shares(forms: "Series[Any]") -> dict[AnswerForm, float]:
    """The share of each form among the outputs of an arm, the most frequent first."""
    counts = forms.dropna().value_counts()
    shares: dict[AnswerForm, float] = {
        form: counts[form] / counts.sum() for form in get_args(AnswerForm) if form in counts
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def describe_forms(shares: Mapping[AnswerForm, float]) -> str:
    """'90 % labeled, 10 % bare'."""
    named = [f"{100 * share:.0f} % {form}" for form, share in shares.items() if share >= MIN_SHARE]
    return ", ".join(named).replace("none", "without an answer")


def forms_differ(first: Mapping[AnswerForm, float], second: Mapping[AnswerForm, float]) -> bool:
    """Whether the total variation distance of two distributions over forms is at least MIN_DIFFERENCE."""
    distance = sum(abs(first.get(form, 0.0) - second.get(form, 0.0)) for form in {*first, *second}) / 2
    return distance >= MIN_DIFFERENCE


def wrapping_note(reference: "DataFrame", samples: "DataFrame", names: tuple[str, str]) -> str:
    """A sentence if the outputs of two arms write their answers differently, else ''. names: of the two arms."""
    if FORM not in samples or FORM not in reference:
        return ""
    first, second = form_shares(reference[FORM]), form_shares(samples[FORM])
    if not first or not second or not forms_differ(first, second):
        return ""
    has_both = {"strict", "lenient"} <= set(samples)
    measure = "`format_gain` measures it" if has_both else "the metrics strict and lenient would measure it"
    words = "; ".join(f"{name}: {describe_forms(shares)}" for name, shares in zip(names, (first, second), strict=True))
    return f"The arms write their answers differently ({words}), so this can be format: {measure}."


def iter_notes(unparsed: "Series[bool]", cut_thinking: "Series[bool]", cut_answers: "Series[bool]") -> Iterator[str]:
    """Sentences about outputs that give no answer, and about what was cut."""
    total = len(unparsed)
    if count := int(unparsed.sum()):
        cut = int((unparsed & cut_answers).sum())
        because = f"; {cut:,} of them were cut at max_new_tokens" if cut else ""
        yield f"{count:,} of {total:,} outputs give no answer that could be read{because}"
    if count := int(cut_thinking.sum()):
        yield f"the thinking of {count:,} of {total:,} outputs was cut at max_thinking_tokens"
