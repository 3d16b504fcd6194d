"""Notes on samples that read unlike others: acting in one part of an output without reasoning, and other labels.

Arms are not comparable with others if their demonstrations have other labels than the task. Under `flip_labels` and
`unlearn` the gold answer stays, so a model that follows its demonstrations scores lower. Under `symbols` the right
answers are other words than at 0 shots. Under `noisy_labels` some demonstrations are wrong on purpose. Such a transform
names the analysis that measures its effect (`analysis`). Gains over 0 shots and comparisons of retrievers exclude these
arms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.stats import FORM, flags_by_value, iter_arms, join_words, label_axes
from experiments.stats.answer_forms import REASONED, describe_forms, form_shares, forms_differ
from experiments.stats.bounds import is_wide
from experiments.stats.settled import unread_flags
from experiments.store.store import Store
from icl import DataFrame, Series, entries, pd, resolve
from icl.metrics.machinery.answer_extraction import AnswerForm

MEANING = {
    "think": "so it changes nothing there",
    "answer": "so it cannot change their first token",
}
"""What `acts_in` does in an output without a reasoning block."""


def part_notes(frame: DataFrame, store: Store) -> list[str]:
    """A sentence for each intervention and arm that acts in one part of outputs, if some of them have no reasoning.

    Args:
        frame: Samples with the columns `cell`, `intervene` and `decoding`.
        store: The store of the run; its cells say in which part they act.
    """
    notes = []
    for axis in ("intervene", "decoding"):
        if axis not in frame or "cell" not in frame:
            continue
        columns = [axis, "cell", *(["thinking"] if "thinking" in frame else [])]  # a copy of all would take much memory
        for label, rows in frame.loc[frame["failed"].isna(), columns].groupby(axis, sort=False):
            node = (store.read_cell(str(rows["cell"].iloc[0])) or {}).get(axis) or {}
            part = str(node.get("acts_in", "both"))
            num = int((rows["thinking"].astype(object).fillna("") == "").sum()) if "thinking" in rows else len(rows)
            if part in MEANING and num:
                notes.append(f"{num:,} of {len(rows):,} outputs under {label} have no reasoning block, {MEANING[part]}")
    return notes


def mask_note(frame: DataFrame) -> str:
    """A sentence on the arms whose mask excludes every option of some questions, or ''. frame: samples of a run."""
    if "masked" not in frame:
        return ""
    samples = frame[frame["failed"].isna()]
    arms = samples["masked"].fillna(0).groupby(samples["decoding"], sort=False).agg(["sum", "size"])
    counts = [f"{int(num):,} of {size:,} answers under {arm}" for arm, num, size in arms.itertuples() if num]
    if not counts:
        return ""
    return (
        f"the mask excludes every option, at some token: {join_words(counts)}. These options rank mostly by the number "
        "of their excluded tokens, then by the reference. `beta: 0` excludes nothing"
    )


def label_transform_names(frame: DataFrame, store: Store) -> "Series[Any]":
    """For each sample, the transforms of its cell that change labels, or ''. The frame has the column `cell`."""
    if "cell" not in frame:
        return pd.Series("", index=frame.index)
    named = {digest: ", ".join(_names(store.read_cell(str(digest)) or {})) for digest in frame["cell"].unique()}
    return frame["cell"].map(named)


def label_transform_note(names: "Series[Any]") -> str:
    """A sentence on the arms that are excluded, or '' if there are none. names: of `label_transform_names`."""
    transforms = list(dict.fromkeys(name for joined in names.unique() for name in joined.split(", ") if name))
    if not transforms:
        return ""
    analyses = join_words([f"`icl analyze RUN {one}`" for one in dict.fromkeys(map(_analysis_of, transforms))])
    return (
        f"with {join_words(transforms)} a lower score may mean that demonstrations are followed. Sentences on gains "
        f"and retrieval exclude these arms; see {analyses}."
    )


def _names(cell: Mapping[str, Any]) -> Iterator[str]:
    for node in cell.get("transforms") or ():
        name = str(node.get("name") if isinstance(node, Mapping) else node)
        share = node.get("share") if isinstance(node, Mapping) else None
        if _analysis_of(name) and share != 0:
            yield name


def _analysis_of(name: str) -> str:
    """The analysis that a transform names; '' if it does not change labels or is not a built-in one."""
    return str(getattr(resolve("transform", name), "analysis", "")) if name in entries("transform") else ""


def number_metrics(metrics: Mapping[str, Any]) -> set[str]:
    """The labels of metrics that read numbers. metrics: those of run.json, as nodes by label."""
    names = {label: str(node.get("name", label)) for label, node in metrics.items()}
    classes = {label: resolve("metric", name) for label, name in names.items() if name in entries("metric")}
    return {label for label, metric in classes.items() if getattr(metric, "reads_numbers", False)}


def reader_note(node: Any) -> str:
    """A sentence if a metric was scored before outputs could be unread, else ''. node: of the metric in run.json."""
    if (
        not isinstance(node, Mapping)
        or "reader" in node
        or "revision" not in node
        or node.get("answer", "auto") != "auto"
    ):
        return ""
    name = str(node.get("name", ""))
    if name not in entries("metric") or not getattr(resolve("metric", name), "reads_answers", False):
        return ""
    return (
        f"every output counts as read by {name}, because the run is of a version without unread outputs: the same "
        "`icl run` command reads them again"
    )


UNREAD, UNPARSED, NUMBERLESS, CUT_ANSWER, CUT_THINKING = (
    *("is_unread", "unparsed", "numberless"),
    *("cut_answer", "cut_thinking"),
)
"""Columns of a frame: whether no metric can be certain of an output, else whether it gives no answer, or no number, and
whether its answer or its thinking was cut.
"""


@dataclass(frozen=True)
class ArmAnswers:
    """The answers of one arm.

    Attributes:
        arm: Its value on each axis that varies, with task and shots.
        count: The number of outputs.
        strict: Mean strict score; NaN without that metric.
        lenient: Mean lenient score; NaN without that metric, and if so many outputs are unread that it says nothing.
        unread: The share of outputs that `lenient` cannot read with certainty.
        unparsed: The share of outputs that give no answer.
        cut_answer: The share of outputs with an answer that was cut at `max_new_tokens`.
        cut_thinking: The share of outputs with thinking that was cut at `max_thinking_tokens`.
        reasoned: The share with a reasoning block.
        forms: The share of each form, the most frequent first.
    """

    arm: Mapping[str, Any]
    count: int
    strict: float
    lenient: float
    unread: float
    unparsed: float
    cut_answer: float
    cut_thinking: float
    reasoned: float
    forms: Mapping[AnswerForm, float]

    @property
    def wrapping(self) -> str:
        """The forms in words: '90 % labeled, 10 % bare'."""
        return describe_forms(self.forms)


def arm_answers(samples: DataFrame, axes: Sequence[str]) -> list[ArmAnswers]:
    """The answers of each arm. samples: a tidy frame with FORM, REASONED, UNPARSED, CUT_ANSWER and CUT_THINKING."""
    answered = samples[samples[FORM].notna()]
    arms = []
    for arm, rows in iter_arms(answered, label_axes(answered, axes)):
        scores = {name: float(rows[name].mean()) if name in rows else np.nan for name in ("strict", "lenient")}
        unread = float(unread_flags(rows, "lenient").mean())
        scores["lenient"] = np.nan if is_wide(unread) else scores["lenient"]
        shares = {name: float(rows[name].mean()) for name in (UNPARSED, CUT_ANSWER, CUT_THINKING, REASONED)}
        arms.append(ArmAnswers(arm, len(rows), **scores, unread=unread, **shares, forms=form_shares(rows[FORM])))
    return arms


def is_unremarkable(arms: Sequence[ArmAnswers]) -> bool:
    """Whether all arms of a task write their answers alike, every output gives one, and no thinking was cut."""
    first = {one.arm.get("task"): one for one in reversed(arms)}
    return all(
        not (one.unread or one.unparsed or one.cut_thinking)
        and not forms_differ(first[one.arm.get("task")].forms, one.forms)
        for one in arms
    )


def cut_columns(frame: DataFrame) -> "dict[str, Series[bool]]":
    """The columns CUT_ANSWER and CUT_THINKING of a frame of samples."""
    flags = {
        CUT_ANSWER: flags_by_value(frame, ["finish"], lambda row: row.get("finish") == "length"),
        CUT_THINKING: flags_by_value(frame, ["thinking"], lambda row: row.get("thinking") == "cut"),
    }
    return {name: pd.Series(own, index=frame.index) for name, own in flags.items()}
