"""Are the option probabilities calibrated? (Guo et al., ICML 2017; Brier 1950)

Probabilities are the option scores of a sample, normalized over its options. Confidence is the highest probability.

    ece      sum over 15 equal bins (low, high] of the confidence:  share of samples x |accuracy - mean confidence|
    brier    mean of sum over options (p - right)^2, from 0 to 2 (papers on binary labels print half of it)
    nll      mean of -ln p of the accepted options, in nats; infinite if one of them has probability 0
    over     mean confidence - accuracy; above 0 the model is overconfident
    risk_50  share of wrong answers among the more confident half of the samples
    skew     1/2 sum over options of |mean probability - share of samples in which it is right|: label bias. Several
             accepted options of a sample are right in equal parts

With arms that calibrate (`pmi`, `contextual_calibration`, `batch_calibration`), compare their rows with the
reference's. Accuracy counts the likeliest option as the answer; a tie at the top is wrong.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table
from experiments.stats import text_items, to_records, unit_labels
from icl import DataFrame, normalize_text
from icl.metrics import accepted_probability, is_best_option
from icl.metrics.machinery.option_parsing import option_probabilities

BINS = 15
Floats = NDArray[np.float64]
Shares = dict[str, float]


def analyze(view: RunView) -> DataFrame:
    """One row per setting whose options were scored. Raises ConfigError if none were."""
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, answered_samples(view, with_demos=False)):
        rows = [row for row in to_records(samples) if len(row_probabilities(row)) > 1 and text_items(row, "gold")]
        if rows:
            table_rows.append({**setting, **_measured(rows), "n": len(rows)})
    return make_table(
        table_rows,
        "Are the option probabilities calibrated?",
        note=f"ece: {BINS} equal bins; brier: summed over options; risk_50: over the more confident half",
        signed=("over",),
        missing=f"{view.path}: no options were scored. Run it with answer_mode: options, on a task with options.",
    )


def row_probabilities(row: Mapping[str, Any]) -> Shares:
    """The probability of each option of a sample. Empty without option scores."""
    scores = row.get("option_scores")
    return option_probabilities(scores) if isinstance(scores, Mapping) else {}


def ece(confidence: Floats, right: Floats, bins: int = BINS) -> float:
    """Expected calibration error over equal bins (low, high] of (0, 1]."""
    places = np.clip(np.ceil(np.round(confidence * bins, 9)).astype(int) - 1, 0, bins - 1)
    total = 0.0
    for place in np.unique(places):
        mine = places == place
        total += float(mine.mean()) * abs(float(right[mine].mean()) - float(confidence[mine].mean()))
    return total


def brier(shares: Shares, gold: Sequence[str]) -> float:
    """Sum over options of (p - right)^2, where several accepted options share a target of 1 evenly."""
    accepted = [name for name in map(normalize_text, gold) if name in shares]
    target = {name: 1 / len(accepted) for name in accepted}
    return sum((p - target.get(name, 0.0)) ** 2 for name, p in shares.items()) + (0.0 if accepted else 1.0)


def _measured(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    every = [row_probabilities(row) for row in rows]
    golds = [text_items(row, "gold") for row in rows]
    confidence = np.array([max(shares.values()) for shares in every])
    right = np.array([float(is_best_option(shares, gold)) for shares, gold in zip(every, golds, strict=True)])
    scored = [brier(shares, gold) for shares, gold in zip(every, golds, strict=True)]
    gold_shares = [accepted_probability(row["option_scores"], gold) for row, gold in zip(rows, golds, strict=True)]
    with np.errstate(divide="ignore"):
        losses = -np.log(np.array(gold_shares))
    surer = np.argsort(-confidence, kind="stable")[: max(len(rows) // 2, 1)]
    return {
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "over": float(confidence.mean() - right.mean()),
        "ece": ece(confidence, right),
        **interval_columns(scored, unit_labels(rows), "brier"),
        "nll": float(losses.mean()),
        "risk_50": float(1 - right[surer].mean()),
        "skew": _skew(every, golds),
    }


def _skew(every: Sequence[Shares], golds: Sequence[Sequence[str]]) -> float:
    option_counts, gold_counts = Counter[str](), Counter[str]()  # sums of probabilities
    for shares, gold in zip(every, golds, strict=True):
        option_counts.update(shares)
        accepted = [name for name in dict.fromkeys(map(normalize_text, gold)) if name in shares] or [
            normalize_text(gold[0])
        ]
        gold_counts.update(dict.fromkeys(accepted, 1 / len(accepted)))
    return float(
        sum(abs(option_counts[name] - gold_counts[name]) for name in {*option_counts, *gold_counts}) / len(every) / 2
    )
