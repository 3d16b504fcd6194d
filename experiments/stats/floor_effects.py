"""Floor and ceiling effects: tasks whose arms cannot differ, so that a missing difference is not a finding.

floor          no output of any arm names one of the options of its question
same answers   every output is the same in all arms
ceiling        every arm has a mean score of at least CEILING
few options    no arm names an option in half of its answers; the scores mostly measure how often one is named
"""

from typing import TYPE_CHECKING

from experiments.stats.arms import axis_values, iter_arms
from experiments.stats.formatting import format_share
from experiments.stats.sample_rows import as_sequence, read_answer, text_items, to_records
from icl.metrics.normalize import normalize_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame, Series

NEVER_AN_OPTION = "no answer of any arm is one of the options; the model does not do this task."
RARELY_AN_OPTION = (
    "no arm names one of the options in more than {} of its answers; the scores mostly measure how often one is named."
)
SAME_ANSWERS = "every arm gives the same answers, so nothing distinguishes the arms."

OPTION_SHARE_LIMIT = 0.5
"""The share of answers with an option below which `rarely_an_option` reports a task."""
CEILING = 0.97
"""An arm with a higher mean is at the ceiling: the rest is smaller than the interval of a few hundred queries."""


def ceiling_effects(scores: "DataFrame", metric: str, axes: "Sequence[str]") -> dict[str, str]:
    """A sentence for each task whose arms are all at the ceiling.

    Args:
        scores: A tidy frame.
        metric: A column of scores of which higher is better.
        axes: The axes of the frame.
    """
    parts = {str(task): scores[scores["task"] == task] for task in axis_values(scores, "task")}
    sentences = {task: _at_ceiling(rows, metric, axes) for task, rows in parts.items()}
    return {task: sentence for task, sentence in sentences.items() if sentence}


def _at_ceiling(rows: "DataFrame", metric: str, axes: "Sequence[str]") -> str:
    means = [float(own[metric].mean()) for _, own in iter_arms(rows[rows[metric].notna()], axes)]
    if len(means) < 2 or not CEILING <= min(means) <= max(means) <= 1:
        return ""
    if format_share(min(means)) == format_share(1):
        return f"ceiling effect: every arm scores {format_share(1)}, so no gain can be measured."
    bare = rows[(rows["shots"] == 0) & rows[metric].notna()][metric]
    without = f" ({format_share(float(bare.mean()))} without demonstrations)" if len(bare) else ""
    return f"ceiling effect: no arm is below {format_share(min(means))}{without}, so no gain can be measured."


def names_option(frame: "DataFrame") -> "Series[bool] | None":
    """Whether each output names an option of its question; true if the question has none. Failed samples are left out.

    Returns:
        None if the frame has no outputs or no tasks.
    """
    import pandas as pd

    answered = frame[frame["failed"].isna()] if "failed" in frame else frame
    if "output" not in answered or "task" not in answered:
        return None
    named, exact, texts = [], dict[tuple[str, tuple[str, ...]], bool](), dict[int, tuple[str, ...]]()
    every = answered["options"].tolist() if "options" in answered else [()] * len(answered)
    for output, own in zip(answered["output"].tolist(), every, strict=True):
        options = texts.get(id(own))  # equal options are mostly one object
        if options is None:
            options = texts[id(own)] = tuple(map(str, as_sequence(own)))
        key = (output if isinstance(output, str) else "", options)
        if key not in exact:
            exact[key] = not options or normalize_text(key[0]) in map(normalize_text, options)
        named.append(exact[key])
    inexact = [place for place, is_exact in enumerate(named) if not is_exact]
    for place, row in zip(
        inexact, to_records(answered.iloc[inexact]), strict=True
    ):  # the others need no demonstrations
        named[place] = read_answer(row) in map(normalize_text, text_items(row, "options"))
    return pd.Series(named, index=answered.index, dtype=bool)


def floor_effects(frame: "DataFrame", axes: "Sequence[str]", named: "Series[bool]") -> dict[str, str]:
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
        several = sum(1 for _ in iter_arms(rows, axes)) > 1
        if not named[rows.index].any():
            sentences[str(task)] = NEVER_AN_OPTION
        elif several and rows.groupby(["query", "seed"])["output"].nunique(dropna=False).max() == 1:
            sentences[str(task)] = SAME_ANSWERS
    return sentences


def rarely_an_option(frame: "DataFrame", axes: "Sequence[str]", named: "Series[bool]") -> dict[str, str]:
    """A sentence for each task whose answers are rarely options. The arguments are those of `floor_effects`."""
    answered = frame.loc[named.index, list(dict.fromkeys(["task", *axes]))]
    sentences = {}
    for task in axis_values(answered, "task"):
        rows = answered[answered["task"] == task]
        share = max((float(named[own.index].mean()) for _, own in iter_arms(rows, axes)), default=0.0)
        if 0 < share < OPTION_SHARE_LIMIT:
            sentences[str(task)] = RARELY_AN_OPTION.format(format_share(share))
    return sentences
