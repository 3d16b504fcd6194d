"""Whether the arms of a task can differ at all: where they cannot, that nothing differs is no finding.

A task stands at the floor where no output of any arm names one of the options that its question offers, its arms are
alike where every output is the same in all of them, and it stands at its ceiling where no arm leaves more than 3 % to
gain. Where no arm names an option in half of its answers, the arms can differ, and the reader is told what they are
made of.
"""

from typing import TYPE_CHECKING

from experiments.stats.arms import arms, values_of
from experiments.stats.rows import records, said, texts
from experiments.stats.wording import share
from icl.metrics.normalize import normalize_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

NO_OPTION = "no answer of any arm is one of the options; the model does not do this task as asked."
FEW = "no arm names one of the options in more than {} of its answers; scores tell first of all how often one is named."
ALIKE = "every arm gives the same answers; nothing here tells them apart."


READ = ["output", "options", "demos", "gold", "gold_before_after"]
"""The columns that say what an answer is."""
HALF = 0.5
"""A share of answers that name an option below which this is told."""
FULL = 0.97
"""A mean score above which an arm is at the ceiling: less than the interval of a few hundred queries is left."""


def ceilings(scores: "DataFrame", metric: str, axes: "Sequence[str]") -> dict[str, str]:
    """task -> the sentence, for the tasks of which every arm is at the ceiling. scores: tidy, higher is better."""
    told = {str(task): scores[scores["task"] == task] for task in values_of(scores, "task")}
    found = {task: _at_ceiling(rows, metric, axes) for task, rows in told.items()}
    return {task: sentence for task, sentence in found.items() if sentence}


def _at_ceiling(rows: "DataFrame", metric: str, axes: "Sequence[str]") -> str:
    means = [float(own[metric].mean()) for _, own in arms(rows[rows[metric].notna()], axes)]
    if len(means) < 2 or not FULL <= min(means) <= max(means) <= 1:
        return ""
    if share(min(means)) == share(1):
        return f"at its ceiling: every arm scores {share(1)}, so nothing here can show a gain."
    bare = rows[(rows["shots"] == 0) & rows[metric].notna()][metric]
    without = f" ({share(float(bare.mean()))} without demonstrations)" if len(bare) else ""
    return f"at its ceiling: no arm is below {share(min(means))}{without}, so nothing here can show a gain."


def floors(frame: "DataFrame", axes: "Sequence[str]") -> dict[str, str]:
    """task -> the sentence, for the tasks that have one. frame: tidy, with what was said."""
    told = frame[frame["failed"].isna()] if "failed" in frame else frame
    if "output" not in told or "task" not in told:
        return {}
    parts = {str(task): told[told["task"] == task] for task in values_of(told, "task")}
    found = {task: _sentence(rows, axes) for task, rows in parts.items()}
    return {task: sentence for task, sentence in found.items() if sentence}


def strays(frame: "DataFrame", axes: "Sequence[str]") -> dict[str, str]:
    """task -> the sentence, for the tasks where each arm's answers are mostly none of the options. frame: tidy."""
    told = frame[frame["failed"].isna()] if "failed" in frame else frame
    if "output" not in told or "task" not in told:
        return {}
    found = {}
    for task in values_of(told, "task"):
        named = [_named(rows) for _, rows in arms(told[told["task"] == task], axes)]
        if named and 0 < max(named) < HALF:
            found[str(task)] = FEW.format(share(max(named)))
    return found


def _named(rows: "DataFrame") -> float:
    """The share of answers that name one of the options; 1 for a question without options."""
    read = records(rows.reindex(columns=READ))
    return sum(not _misses(row) for row in read) / len(read)


def _sentence(rows: "DataFrame", axes: "Sequence[str]") -> str:
    read = rows.reindex(columns=READ)
    if all(_misses(row) for row in records(read)):
        return NO_OPTION
    several = sum(1 for _ in arms(rows, axes)) > 1
    alike = rows.groupby(["query", "seed"])["output"].nunique(dropna=False).max() == 1
    return ALIKE if several and alike else ""


def _misses(row: dict[str, object]) -> bool:
    """Whether the output is none of the options, of which there are some."""
    options = texts(row, "options")
    return bool(options) and said(row) not in map(normalize_text, options)
