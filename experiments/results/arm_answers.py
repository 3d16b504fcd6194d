"""The answers of each arm: strict and lenient scores, outputs without an answer, forms, and what was cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.stats.answer_forms import FORM, REASONED, describe_forms, form_shares, forms_differ
from experiments.stats.arms import iter_arms, label_axes
from icl.metrics.machinery.answer_extraction import AnswerForm

if TYPE_CHECKING:
    from pandas import DataFrame, Series

UNPARSED, CUT_ANSWER, CUT_THINKING = "unparsed", "cut_answer", "cut_thinking"
"""Columns of a frame: whether an output gives no answer, and whether its answer or its thinking was cut."""


@dataclass(frozen=True)
class ArmAnswers:
    """The answers of one arm.

    Attributes:
        arm: Its value on each axis that varies, with task and shots.
        count: The number of outputs.
        strict: Mean strict score; NaN without that metric.
        lenient: Mean lenient score; NaN without that metric.
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
    unparsed: float
    cut_answer: float
    cut_thinking: float
    reasoned: float
    forms: Mapping[AnswerForm, float]

    @property
    def wrapping(self) -> str:
        """The forms in words: '90 % labeled, 10 % bare'."""
        return describe_forms(self.forms)


def arm_answers(samples: "DataFrame", axes: Sequence[str]) -> list[ArmAnswers]:
    """The answers of each arm. samples: a tidy frame with FORM, REASONED, UNPARSED, CUT_ANSWER and CUT_THINKING."""
    answered = samples[samples[FORM].notna()]
    arms = []
    for arm, rows in iter_arms(answered, label_axes(answered, axes)):
        scores = {name: float(rows[name].mean()) if name in rows else np.nan for name in ("strict", "lenient")}
        shares = {name: float(rows[name].mean()) for name in (UNPARSED, CUT_ANSWER, CUT_THINKING, REASONED)}
        arms.append(ArmAnswers(arm, len(rows), **scores, **shares, forms=form_shares(rows[FORM])))
    return arms


def is_unremarkable(arms: Sequence[ArmAnswers]) -> bool:
    """Whether all arms of a task write their answers alike, every output gives one, and no thinking was cut."""
    first = {one.arm.get("task"): one for one in reversed(arms)}
    return all(
        not one.unparsed and not one.cut_thinking and not forms_differ(first[one.arm.get("task")].forms, one.forms)
        for one in arms
    )


def cut_columns(frame: "DataFrame") -> "dict[str, Series[bool]]":
    """The columns CUT_ANSWER and CUT_THINKING of a frame of samples."""
    import pandas as pd

    never = pd.Series("", index=frame.index)
    finish, thinking = (frame[name].astype(object) if name in frame else never for name in ("finish", "thinking"))
    return {CUT_ANSWER: finish == "length", CUT_THINKING: thinking == "cut"}
