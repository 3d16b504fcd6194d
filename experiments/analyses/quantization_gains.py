"""Do gains from demonstrations, retrieval and contrast survive fewer bits? Each gain by precision, in pairs.

    gain     mean of (score with) - (score without), over the same queries and seeds: the most shots against 0, a
             retriever against `random`, a decoding against the reference decoding
    change   the gain at this precision minus the gain in full precision, sample by sample: a difference of differences

Every gain is pooled over the other settings. Intervals and p come from sign flips of groups of queries; p tests
the change, with Holm over all rows. A change not distinguishable from 0 does not prove that the gain remains: the
interval shows how large the change could be.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments import RunView, make_table
from experiments.analyses.quantization import full_precision
from experiments.config.keys import DEFAULT_REFERENCES, DEMONSTRATION_AXES
from experiments.stats import NO_VALUE, UNIT, Pairs, axis_values, corrected_tests, paired_test
from icl import DataFrame, Series

GAIN = "gain"


def analyze(view: RunView) -> DataFrame:
    """One row per gain and precision. Raises ConfigError for a single precision, or without any gain."""
    full = full_precision(view)
    statistics: list[dict[str, Any]] = []
    for task in view.tasks:
        scores = view.scores[(view.scores["task"] == task) & view.scores[view.metric].notna()]
        for name, gains in _gains(view, scores):
            statistics += _rows(view, task, name, gains, full)
    tested = [row for row in statistics if row["pairs"] is not None]
    for row, result in zip(tested, corrected_tests([row["pairs"] for row in tested]), strict=True):
        row |= {"change": result.difference, "change_low": result.low, "change_high": result.high, "p": result.p}
    for row in statistics:
        del row["pairs"]
    return make_table(
        statistics,
        "Gains with fewer bits",
        note=(
            f"gain in {view.measure}, over all other settings; change: against the gain of {full}; p and interval of "
            "the change after Holm; n pairs of samples"
        ),
        signed=("gain", "low", "high", "change", "change_low", "change_high"),
        missing=f"{view.path}: no gain can be computed. Run shots above 0, a retriever besides random, or two "
        "decodings.",
    )


def _gains(view: RunView, scores: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """(name, samples with a column GAIN) of each gain."""
    if "shots" in scores and {0} < set(scores["shots"]):
        max_shots = axis_values(scores, "shots")[-1]
        with_none = scores[scores["shots"] == 0]
        free = [axis for axis in DEMONSTRATION_AXES if axis in scores]
        yield (
            f"{max_shots} shots over 0",
            _paired(view, scores[scores["shots"] == max_shots], with_none, ["shots", *free]),
        )
    for axis, base in (("retriever", DEFAULT_REFERENCES["retriever"]), ("decoding", view.reference)):
        if axis not in scores or base not in set(scores[axis]):
            continue
        for value in axis_values(scores, axis):
            if value not in (base, NO_VALUE):
                ours, theirs = scores[scores[axis] == value], scores[scores[axis] == base]
                yield f"{value} over {base}", _paired(view, ours, theirs, [axis])


def _paired(view: RunView, ours: DataFrame, theirs: DataFrame, without: Sequence[str]) -> DataFrame:
    keys = [axis for axis in view.axes if axis not in without] + ["query", "seed"]
    reference = theirs[[*keys, view.metric]].rename(columns={view.metric: "reference"})
    both = ours.merge(reference, on=keys, validate="many_to_one")
    return both.assign(**{GAIN: both[view.metric] - both["reference"]})


def _rows(view: RunView, task: str, name: str, gains: DataFrame, full: str) -> Iterator[dict[str, Any]]:
    keys = [axis for axis in view.axes if axis != "model"] + ["query", "seed"]
    whole = gains[gains["model"] == full]
    graded = not view.of_samples  # the numbers of a run-level metric are neither right nor wrong
    for model in axis_values(gains, "model"):
        own = gains[gains["model"] == model]
        statistics = paired_test(_pairs(own["reference"], own[view.metric], own[UNIT], graded), names=("without", name))
        texts = {
            "task": task,
            "of": name,
            "model": model,
            "gain": statistics.difference,
            "low": statistics.low,
            "high": statistics.high,
        }
        change = dict.fromkeys(("change", "change_low", "change_high"), float("nan"))
        pairs = None
        if model != full:
            both = own.merge(whole[[*keys, GAIN]], on=keys, suffixes=("", "_full"), validate="one_to_one")
            pairs = _pairs(both[f"{GAIN}_full"], both[GAIN], both[UNIT], graded)
        yield {**texts, **change, "p": float("nan"), "n": len(own), "pairs": pairs}


def _pairs(reference: "Series[float]", arm: "Series[float]", units: "Series[int]", graded: bool) -> Pairs:
    without, with_it = np.asarray(reference, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    return Pairs(without, with_it, units.to_numpy(), is_graded=graded)
