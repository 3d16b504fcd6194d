"""The effect of each decoding arm on the answers: the rows of the table of controls.

For each arm of a task, pooled over shots and retrievers:

- its scores with intervals
- its answers next to the reference's, and the pairs that went from right to wrong and back
- means of its traces: surviving tokens, changed steps, entropy, length, forward passes per token
- whether it beats the reference and all of its controls (`strategy_verdicts`)
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from math import nan
from typing import Any, Literal

import numpy as np

from experiments.stats.arm_comparisons import ArmComparison, correct_topics
from experiments.stats.arms import (
    NO_VALUE,
    axis_values,
    better_of,
    drop_unscored_tasks,
    shared_settings,
    split_by_subject,
    varying_axes,
)
from experiments.stats.bounds import ArmBounds, bound_arm, is_wide, unread_texts
from experiments.stats.formatting import format_range, format_share, join_words
from experiments.stats.intervals import Estimate, is_binary
from experiments.stats.pairs import KEYS, UnpairedError, align_pairs, key_codes
from experiments.stats.strategy_verdicts import StrategyVerdict, compare_controls, judge_strategy
from experiments.stats.summary import estimate_arm
from icl import DataFrame, normalize_text, pd
from icl.metrics.machinery.yes_no import read_yes_no

Role = Literal["reference", "strategy", "control"]
MAX_ANSWERS = 6
"""The largest number of different answers in a histogram."""
OTHER_ANSWER = "other"


@dataclass(frozen=True)
class Transitions:
    """The number of pairs of an arm and its reference by how the score changed.

    Attributes:
        still_right: Right in both; for graded scores, equal in both.
        right_to_wrong: Worse in the arm; lower, if the metric has no good direction.
        wrong_to_right: Better in the arm; higher, if the metric has no good direction.
        still_wrong: Wrong in both; 0 for graded scores.
        graded: Whether scores are graded.
    """

    still_right: int
    right_to_wrong: int
    wrong_to_right: int
    still_wrong: int
    graded: bool = False


@dataclass(frozen=True)
class DecodingEffect:
    """The effect of one arm on one task and setting. Numbers without data are NaN.

    Attributes:
        subject: The task and setting, in words.
        decoding: The label of the arm.
        role: Whether it is the reference, a strategy or a control.
        of: The strategy that it is a control of; '' if there is none or several.
        scores: The mean of each metric.
        bounds: The bounds of each mean with unread outputs.
        answers: Each answer with its share; empty for free texts.
        reference_answers: The same of the reference.
        transitions: How scores changed; None for the reference, for run-level metrics and with unread outputs.
        other: The share of pairs whose answer differs from the reference's.
        plausible_tokens: Tokens that the mask leaves, per step.
        changed: The share of steps whose best token is not the reference's.
        entropy: The entropy of the scores, in nats per step.
        length: Steps per answer, the end of text included.
        forwards: Forward passes per step.
        judgment: Whether the strategy beats the reference and its controls.
        samples: The number of samples.
        over: The settings in words, if the arm was not run in all settings of the reference.
        against: The reference's score in these settings, in words.
    """

    subject: str
    decoding: str
    role: Role
    of: str
    scores: Mapping[str, Estimate]
    answers: Mapping[str, float]
    reference_answers: Mapping[str, float]
    transitions: Transitions | None
    judgment: StrategyVerdict | None
    samples: int
    over: str
    against: str
    bounds: Mapping[str, ArmBounds]
    other: float = nan
    plausible_tokens: float = nan
    changed: float = nan
    entropy: float = nan
    length: float = nan
    forwards: float = nan


def decoding_effects(
    frame: DataFrame,
    scores: DataFrame,
    axes: Sequence[str],
    metric: str,
    *,
    metrics: Sequence[str],
    base: str,
    controls: Mapping[str, Sequence[str]],
    comparisons: Sequence[ArmComparison],
) -> list[DecodingEffect]:
    """The effects of all arms, in the order of the table.

    Args:
        frame: The samples.
        scores: The same rows with the columns that statistics read.
        axes: The axes.
        metric: The metric of comparisons.
        metrics: The metrics with a mean in each row.
        base: The label of the reference.
        controls: The labels of the controls of each strategy.
        comparisons: Those of `compare_strategies`, corrected over the page (`findings.page_comparisons`).

    Returns:
        Per subject: the reference, the controls of several strategies, then each strategy with its own controls.
    """
    settings = [axis for axis in varying_axes(scores, axes) if axis not in ("shots", "retriever", "decoding")]
    samples = scores.assign(**{axis: NO_VALUE for axis in ("retriever", "decoding") if axis not in scores})
    samples = drop_unscored_tasks(samples, metric)
    better = better_of(scores, metric)
    of_controls = compare_controls(samples, settings, metric, better, base=base, controls=controls)
    alone = correct_topics({"Decoding": of_controls})["Decoding"]
    verdicts = {
        (subject, name): judge_strategy(list(own), [t for t in alone if t.subject == subject])
        for (subject, name), own in groupby(comparisons, key=lambda t: (t.subject, t.arm))
    }
    effects = []
    read = ("output", "options", "gold", "failed", "trace", "usage")
    frame = frame[[name for name in read if name in frame]]  # no other column is copied below
    for subject, part in split_by_subject(samples, settings):
        theirs = part[part["decoding"] == base]
        reader = answer_reader(frame.loc[part.index])
        for name, role, of in _rows(axis_values(part, "decoding"), base, controls):
            mine = part[part["decoding"] == name]
            (left, right), _ = shared_settings(theirs, mine, ["shots", "retriever"])
            whole = len(left) in (0, len(theirs))
            own = frame.loc[mine.index]
            effects.append(
                DecodingEffect(
                    subject,
                    name,
                    role,
                    of,
                    {m: estimate_arm(mine, m) for m in metrics if mine[m].notna().any()},
                    answer_shares(own, reader),
                    answer_shares(frame.loc[left.index], reader),
                    None if role == "reference" else count_transitions(left, right, metric, better),
                    other=nan if role == "reference" else _changed_share(frame, left, right),
                    judgment=verdicts.get((subject, name)),
                    samples=len(mine),
                    over="" if whole else _settings(left, theirs),
                    against="" if whole else _mean(left, metric),
                    bounds={m: ends for m in metrics if (ends := bound_arm(mine, m))},
                    **trace_means(own),
                )
            )
    return effects


def _mean(rows: DataFrame, metric: str) -> str:
    bounds = bound_arm(rows, metric)
    if bounds and is_wide(bounds.unread):
        return format_range((bounds.low, bounds.high))
    return format_share(estimate_arm(rows, metric).mean)


def count_transitions(reference: DataFrame, arm: DataFrame, metric: str, better: str = "higher") -> Transitions | None:
    """How the scores of pairs changed; None if the arms are not paired, an output is unread or the metric run-level."""
    on = [*KEYS, *(axis for axis in ("shots", "retriever") if axis in arm)]
    try:
        pairs = align_pairs(reference, arm, metric, on)
    except UnpairedError:
        return None
    if pairs.strata or any((unread_texts(rows, metric) != "").any() for rows in (reference, arm)):
        return None
    sign = -1 if better == "lower" else 1
    difference = sign * pairs.differences
    worse, improved, equal = int((difference < 0).sum()), int((difference > 0).sum()), int((difference == 0).sum())
    if not (is_binary(pairs.reference) and is_binary(pairs.arm)):
        return Transitions(equal, worse, improved, 0, graded=True)
    right = int(((pairs.arm == (0 if better == "lower" else 1)) & (difference == 0)).sum())
    return Transitions(right, worse, improved, equal - right)


@dataclass(frozen=True)
class AnswerReader:
    """The rule by which answers are counted.

    Attributes:
        read: (output, options) -> the answer.
        by_option: Whether the answer depends on the sample's options.
    """

    read: Callable[[str, Sequence[Any]], str]
    by_option: bool = False


def answer_reader(rows: DataFrame) -> AnswerReader | None:
    """How an answer is counted: as yes or no, one of few options, or the place of an option.

    Args:
        rows: The samples of all arms of a subject.

    Returns:
        None if answers are free texts.
    """
    answered = rows[rows["failed"].isna()] if "failed" in rows else rows
    golds = {normalize_text(answer) for gold in _distinct(answered, "gold") for answer in gold}
    if golds and golds <= {"yes", "no"}:
        return AnswerReader(lambda output, _: read_yes_no(output) or OTHER_ANSWER)
    options = [tuple(map(normalize_text, own)) for own in _distinct(answered, "options")]
    if not options or not all(options):
        return None
    names = {name: name for own in options for name in own}
    if len(names) <= MAX_ANSWERS:
        return AnswerReader(lambda output, _: names.get(normalize_text(output), OTHER_ANSWER))
    if max(map(len, options)) <= MAX_ANSWERS:
        return AnswerReader(_place, by_option=True)
    return None


def answer_shares(rows: DataFrame, reader: AnswerReader | None) -> dict[str, float]:
    """The share of each answer, in alphabetical order with OTHER_ANSWER last."""
    if reader is None:
        return {}
    answered = rows[rows["output"].notna()]
    options = map(tuple, answered["options"]) if reader.by_option else repeat(())
    counts = Counter[str]()
    for (output, own), count in Counter(zip(map(str, answered["output"]), options, strict=False)).items():
        counts[reader.read(output, own)] += count
    total = len(answered)
    return {name: counts[name] / total for name in sorted(counts, key=lambda name: (name == OTHER_ANSWER, name))}


def trace_means(rows: DataFrame) -> dict[str, float]:
    """Means over all steps of all answers, from traces and usage."""
    both = zip(_column(rows, "trace"), _column(rows, "usage"), strict=True)
    traced = [(t, u) for t, u in both if isinstance(t, dict) and t.get("plausible_tokens")]

    def mean(name: str) -> float:
        values = list(chain.from_iterable(t.get(name, ()) for t, _ in traced))
        return float(np.mean(values)) if values else nan

    steps = sum(len(t["plausible_tokens"]) for t, _ in traced)
    forwards = [u["forwards"] for _, u in traced if isinstance(u, dict) and "forwards" in u]
    return {
        "plausible_tokens": mean("plausible_tokens"),
        "changed": mean("changed"),
        "entropy": mean("entropy"),
        "length": steps / len(traced) if traced else nan,
        "forwards": sum(forwards) / steps if forwards and len(forwards) == len(traced) else nan,
    }


def _rows(have: Sequence[Any], base: str, controls: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Role, str]]:
    """(arm, role, strategy) in the order of the table: controls of several strategies first, others below theirs."""
    counts: dict[str, int] = {}
    for names in controls.values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    shared = [name for name in have if counts.get(name, 0) > 1 and name != base]
    if base in have:
        yield base, "reference", ""
    yield from ((name, "control", "") for name in shared)
    for name in have:
        if name == base or name in counts:
            continue
        yield str(name), "strategy", ""
        own = [c for c in controls.get(str(name), ()) if c in have and c not in shared and c != base]
        yield from ((c, "control", str(name)) for c in own)


def _settings(part: DataFrame, whole: DataFrame) -> str:
    """The values of the axes in which a part has fewer than the whole, such as '8 shots' or 'retriever knn'."""
    fewer = {
        axis: values
        for axis in ("shots", "retriever")
        if axis in part and len(values := axis_values(part, axis)) < len(axis_values(whole, axis))
    }
    if "shots" in fewer:  # fewer values of 'retriever' then come from 0 shots, which have none
        return f"{join_words(list(map(str, fewer['shots'])))} shots"
    text = "".join(f"{axis} {join_words(list(map(str, values)))}" for axis, values in fewer.items())
    return text or "a part of the settings"


def _changed_share(frame: DataFrame, reference: DataFrame, arm: DataFrame) -> float:
    """The share of pairs with different answers."""
    keys = [key for key in (*KEYS, "shots", "retriever") if key in reference]
    answers = []
    for rows, codes in zip((reference, arm), key_codes((reference, arm), keys), strict=True):
        places, outputs = pd.factorize(frame["output"].loc[rows.index])  # -1 without an output
        names = np.array([*(normalize_text(str(output)) for output in outputs), ""], dtype=object)
        first = np.intersect1d(np.unique(codes, return_index=True)[1], np.flatnonzero(places >= 0))
        answers.append((codes[first], names[places[first]]))
    (one, own), (two, others) = answers
    _, left, right = np.intersect1d(one, two, return_indices=True)
    return float(np.mean(own[left] != others[right])) if len(left) else nan


def _distinct(rows: DataFrame, name: str) -> set[tuple[str, ...]]:
    """The different lists of texts in a column; () stands for a missing one."""
    return {tuple(map(str, value)) if isinstance(value, list | tuple) else () for value in _column(rows, name)}


def _column(rows: DataFrame, name: str) -> list[Any]:
    return list(rows[name]) if name in rows else [None] * len(rows)


def _place(output: str, options: Sequence[Any]) -> str:
    answer, normalized = normalize_text(output), [normalize_text(str(option)) for option in options]
    return f"option {normalized.index(answer) + 1}" if answer in normalized else OTHER_ANSWER
