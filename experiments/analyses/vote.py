"""How often does the model answer as the majority of its demonstrations, and does it add accuracy to their vote?

With retrieved demonstrations a model is often no better than the vote of their answers (Baldassini et al. 2024).

    agreement          P(the prediction is the vote's answer); ties of the vote go to the best ranked demonstration
    beyond             accuracy of the model minus accuracy of the vote, paired by sample, with Holm over the settings.
                       Where demonstrations rename labels and the gold answer keeps its name, both are judged by the
                       names that the demonstrations use
    right, vote_right  the accuracy of each among the samples where the two differ
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table
from experiments.stats import read_answer, scores_by_names_used, to_records, unit_labels, vote_answer
from experiments.stats.pairs import Pairs, align_pairs, corrected_tests
from icl import ConfigError, DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per setting. Raises ConfigError if the metric has no baseline `vote`."""
    if "vote" not in view.frame:
        raise ConfigError(
            f"{view.path}: no sample has a vote judged by '{view.metric}'. Use another score (--metric), or run the "
            "experiment with shots above 0."
        )
    table_rows: list[dict[str, Any]] = []
    every: list[Pairs] = []
    for setting, samples in iter_settings(view, _judged_by_names_used(view, answered_samples(view))):
        rows = to_records(samples)
        votes = [vote_answer(row) for row in rows]
        agree = [read_answer(row) == word for row, word in zip(rows, votes, strict=True)]
        pairs = align_pairs(samples, samples, view.metric, reference_metric="vote")
        every.append(pairs)
        differ = [row for row, same in zip(rows, agree, strict=True) if not same]
        tested = {"accuracy": float(pairs.arm.mean()), "vote": float(pairs.reference.mean())}
        tested |= dict.fromkeys(("beyond", "beyond_low", "beyond_high", "p"), np.nan)
        judged_rows = differ if view.of_samples else []  # a run-level metric has no scores of these samples alone
        disagreement = {
            "differ": len(differ),
            "right": _mean(judged_rows, view.metric),
            "vote_right": _mean(judged_rows, "vote"),
        }
        table_rows.append(
            {
                **setting,
                **interval_columns(agree, unit_labels(rows), "agreement"),
                **tested,
                **disagreement,
                "n": len(rows),
            }
        )
    for row, result in zip(table_rows, corrected_tests(every, ("the vote", "the model")), strict=True):
        row |= {"beyond": result.difference, "beyond_low": result.low, "beyond_high": result.high, "p": result.p}
    return make_table(
        table_rows,
        "The model and the vote of its demonstrations",
        note="p and interval of beyond after Holm",
        signed=("beyond", "beyond_low", "beyond_high"),
    )


def _judged_by_names_used(view: RunView, samples: DataFrame) -> DataFrame:
    if view.metric not in view.accuracies or not view.of_samples:
        return samples
    renamed = scores_by_names_used(samples).reindex(samples.index)
    model, vote = renamed["model"].fillna(samples[view.metric]), renamed["vote"].fillna(samples["vote"])
    return samples.assign(**{view.metric: model, "vote": vote})


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    return float(np.mean([row[column] for row in rows])) if rows else np.nan
