"""How the outputs of arms write their answers, how many give none, and where two arms differ in that.

Two arms that know the same can write it differently: "**red**" at 0 shots, "red" after demonstrations. A strict metric,
or one that reads the first line, then reports a gain of knowledge that is a gain of format.

Floor and ceiling effects: in some tasks arms cannot differ, so that a missing difference is not a finding.

floor          no output of any arm names one of the options of its question
same answers   every output is the same in all arms
ceiling        every arm has a mean score of at least CEILING
few options    no arm names an option in half of its answers; the scores mostly measure how often one is named
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from experiments.stats.arms import axis_values, iter_arms
from experiments.stats.formatting import format_estimate, format_share
from experiments.stats.intervals import wilson
from experiments.stats.sample_rows import as_sequence, flags_by_value, read_answer, text_items, text_value, to_records
from icl import DataFrame, Series, normalize_text, pd
from icl.metrics import AnswerForm, extract_answer, gold_number, read_number, read_yes_no

FORM = "answer_form"
"""The column with the form of each output (`AnswerForm` of `answer_extraction`); missing for a failed sample."""

REASONED = "reasoned"
"""The column that says whether an output has a reasoning block."""

MIN_DIFFERENCE = 0.1
"""The smallest share of outputs in other forms that counts as a difference of two arms."""

MIN_SHARE = 0.02
"""A form of fewer outputs is not named in a sentence."""


def answer_forms(frame: DataFrame) -> "dict[str, Series[Any]]":
    """The columns FORM and REASONED of samples with `output` and `failed`."""
    codes, texts = pd.factorize(frame["output"].fillna(""))
    answers = list(map(extract_answer, texts))
    answered = frame["failed"].isna() if "failed" in frame else pd.Series(True, index=frame.index)
    forms = pd.Series(np.array([answer.form for answer in answers], dtype=object)[codes], index=frame.index)
    reasoned = answered & np.array([answer.reasoned for answer in answers], dtype=bool)[codes]
    return {FORM: forms.where(answered, None), REASONED: reasoned}


def unparsed_outputs(frame: DataFrame, forms: "Series[Any]", named: "Series[bool] | None") -> "Series[bool]":
    """Whether each output gives no answer.

    Either the output has none, or the question asks for yes or no or for an option and the output names none.

    Args:
        frame: The samples.
        forms: The column FORM of `answer_forms`.
        named: The result of `experiments.stats.answer_forms.names_option`.
    """
    gives = (pd.Series(True, frame.index) if named is None else named).reindex(frame.index, fill_value=True)
    asks = flags_by_value(frame, ["gold"], lambda row: _asks_yes_no(row.get("gold")))
    gives[asks] = flags_by_value(
        frame[asks],
        ["output", "question"],
        lambda row: read_yes_no(text_value(row, "output"), question=text_value(row, "question")) is not None,
    )
    return (forms == "none") | ~(gives | forms.isna())


def numberless_outputs(frame: DataFrame, forms: "Series[Any]", *, of_all: bool) -> "Series[bool]":
    """Whether each output states no number, as metrics of numbers read it. False for failed samples.

    Args:
        frame: The samples.
        forms: The column FORM of `answer_forms`.
        of_all: Whether outputs should state a number also if the gold answer is none.
    """
    if not of_all:
        forms = forms.where(
            flags_by_value(frame, ["gold"], lambda row: gold_number(list(text_items(row, "gold"))) is not None)
        )
    return forms.notna() & flags_by_value(frame, ["output"], lambda row: read_number(text_value(row, "output")) is None)


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


def wrapping_note(reference: DataFrame, samples: DataFrame, names: tuple[str, str]) -> str:
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


def iter_notes(
    unparsed: "Series[bool]",
    cut_thinking: "Series[bool]",
    cut_answers: "Series[bool]",
    unread: "Series[bool]",
    numberless: "Series[bool] | None" = None,
) -> Iterator[str]:
    """Sentences about outputs that give no answer, or no number, that are unread, and about what was cut."""
    total = len(unparsed)
    kinds = {"give no answer": unparsed}
    if numberless is not None:
        kinds = {"state no number": numberless, "give no answer": unparsed & ~numberless}
    for what, flags in (kinds | {"are unread: they may be right or wrong": unread}).items():
        if count := int(flags.sum()):
            cut = int((flags & cut_answers).sum())
            because = f"; {cut:,} of them were cut at max_new_tokens" if cut else ""
            yield f"{count:,} of {total:,} outputs {what}{because}"
    if count := int(cut_thinking.sum()):
        yield f"the thinking of {count:,} of {total:,} outputs was cut at max_thinking_tokens"


NEVER_AN_OPTION = "no answer of any arm is one of the options; the model does not do this task."
RARELY_AN_OPTION = (
    "no arm names one of the options in more than {} of its answers; the scores mostly measure how often one is named."
)
SAME_ANSWERS = "every arm gives the same answers, so nothing distinguishes the arms."

OPTION_SHARE_LIMIT = 0.5
"""The share of answers with an option below which `rarely_an_option` reports a task."""
CEILING = 0.97
"""An arm with a higher mean is at the ceiling: the rest is smaller than the interval of a few hundred queries."""


def ceiling_effects(scores: DataFrame, metric: str, axes: "Sequence[str]") -> dict[str, str]:
    """A sentence for each task with all arms at the ceiling.

    Args:
        scores: A tidy frame.
        metric: A column of scores; higher is better.
        axes: The axes of the frame.
    """
    parts = {str(task): scores[scores["task"] == task] for task in axis_values(scores, "task")}
    sentences = {task: _at_ceiling(rows, metric, axes) for task, rows in parts.items()}
    return {task: sentence for task, sentence in sentences.items() if sentence}


def _at_ceiling(rows: DataFrame, metric: str, axes: "Sequence[str]") -> str:
    own_scores = rows.loc[rows[metric].notna(), list(dict.fromkeys([*axes, metric]))]
    means = [float(own[metric].mean()) for _, own in iter_arms(own_scores, axes)]
    if len(means) < 2 or not CEILING <= min(means) <= max(means) <= 1:
        return ""
    if format_share(min(means)) == format_share(1):
        return f"ceiling effect: every arm scores {format_share(1)}, so no gain can be measured."
    bare = rows[(rows["shots"] == 0) & rows[metric].notna()][metric]
    without = f" ({format_share(float(bare.mean()))} without demonstrations)" if len(bare) else ""
    return f"ceiling effect: no arm is below {format_share(min(means))}{without}, so no gain can be measured."


def names_option(frame: DataFrame) -> "Series[bool] | None":
    """Whether each output names an option of its question; true if the question has no options. Failed samples are left
    out.

    Returns:
        None if the frame has no outputs or no tasks.
    """
    if "output" not in frame or "task" not in frame:
        return None
    read = ("output", "options", "demos", "gold", "gold_before_after")
    is_answered = frame["failed"].isna() if "failed" in frame else slice(None)
    answered = frame.loc[is_answered, [name for name in read if name in frame]]  # no other column is copied
    named = flags_by_value(answered, ["output", "options"], _is_option)
    inexact = np.flatnonzero(~named)
    for place, row in zip(
        inexact, to_records(answered.iloc[inexact]), strict=True
    ):  # the others need no demonstrations
        named[place] = read_answer(row) in map(normalize_text, text_items(row, "options"))
    return pd.Series(named, index=answered.index)


def _is_option(row: Mapping[str, Any]) -> bool:
    """Whether the output is an option, word by word, or there is none."""
    options = text_items(row, "options")
    return not options or normalize_text(text_value(row, "output")) in map(normalize_text, options)


def floor_effects(frame: DataFrame, axes: "Sequence[str]", named: "Series[bool]") -> dict[str, str]:
    """A sentence for each task at the floor, or with the same answers in all arms.

    Args:
        frame: A tidy frame with outputs.
        axes: The axes of the frame.
        named: The result of `names_option`.
    """
    answered = frame.loc[named.index, list(dict.fromkeys(["task", *axes, "query", "seed", "output"]))]
    sentences = {}
    for task in axis_values(answered, "task"):
        rows = answered[answered["task"] == task]
        several = len(rows[list(axes)].drop_duplicates()) > 1
        if not named[rows.index].any():
            sentences[str(task)] = NEVER_AN_OPTION
        elif several and rows.groupby(["query", "seed"])["output"].nunique(dropna=False).max() == 1:
            sentences[str(task)] = SAME_ANSWERS
    return sentences


def rarely_an_option(frame: DataFrame, axes: "Sequence[str]", named: "Series[bool]") -> dict[str, str]:
    """A sentence for each task with answers that are rarely options. Takes the same arguments as `floor_effects`."""
    answered = frame.loc[named.index, list(dict.fromkeys(["task", *axes]))]
    sentences = {}
    for task in axis_values(answered, "task"):
        rows = answered[answered["task"] == task]
        share = max((float(named[own.index].mean()) for _, own in iter_arms(rows, axes)), default=0.0)
        if 0 < share < OPTION_SHARE_LIMIT:
            sentences[str(task)] = RARELY_AN_OPTION.format(format_share(share))
    return sentences


# How well a metric's verdicts agree with people's verdicts: the share of agreement, and Cohen's kappa (1960).
#
#     kappa = (p_o - p_e) / (1 - p_e)
#
# p_o is the share of equal verdicts, and p_e the share that is expected by chance from how often each side says right,
# wrong or nothing. The interval of p_o is Wilson's. The interval of kappa is its image at the observed p_e, so
# it does not shrink to a point if all verdicts agree.


@dataclass(frozen=True)
class LabelAgreement:
    """The agreement on some answers. Each triple is an estimate with its 95 % interval; kappa may be undefined."""

    n: int
    share: tuple[float, float, float]
    kappa: tuple[float, float, float] | None

    def describe(self) -> str:
        """One line with both numbers."""
        if self.kappa is None:
            return f"share {format_estimate(*self.share)}; Cohen's kappa is undefined: all verdicts are the same"
        return f"share {format_estimate(*self.share)}, Cohen's kappa {format_estimate(*self.kappa)}"


def measure_agreement(verdicts: Sequence[tuple[bool, bool | None]]) -> LabelAgreement:
    """The agreement of pairs (label of a person, verdict of the metric). None is a verdict of its own.

    Raises:
        ValueError: There is no pair.
    """
    n = len(verdicts)
    if not n:
        raise ValueError("agreement needs at least one pair of verdicts.")
    equal = sum(label == verdict for label, verdict in verdicts)
    share = (equal / n, *wilson(equal, n))
    labels, answers = Counter(label for label, _ in verdicts), Counter(verdict for _, verdict in verdicts)
    expected = sum(labels[value] * answers[value] for value in labels) / n**2
    if expected == 1:
        return LabelAgreement(n, share, None)
    kappa, low, high = ((value - expected) / (1 - expected) for value in share)
    return LabelAgreement(n, share, (kappa, low, high))
