"""Are the demonstrations' answers right for the query, diverse, and near?

    precision   share of the k requested demonstrations with the query's gold answer as their answer
    hit, mrr    whether any is; 1 / rank of the first that is, else 0. Ranks are the retriever's, in any prompt order
    coverage    share of the query's options that some demonstration has as its answer; NaN without options
    distinct    different answers among the demonstrations, over their number
    used        different pool examples in the whole setting
    similarity  of the retriever's scores over all demonstrations: mean, quartiles, and the mean of the best ranked

Answers are read from the prompt, after transforms of labels. Recall and diversity of embeddings need the pool and an
encoder (`pool_coverage`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table, mean_of_defined
from experiments.stats import demos_of, ranks_of, text_items, to_records, unit_labels
from icl import DataFrame, normalize_text


def analyze(view: RunView) -> DataFrame:
    """One row per setting; arms with the same demonstrations have the same numbers."""
    table_rows: list[dict[str, Any]] = []
    rows_of = answered_samples(view)
    for setting, samples in iter_settings(
        view, rows_of, without=("model", "order", "composer", "decoding", "answer_mode")
    ):
        rows = to_records(samples.drop_duplicates(["query", "seed"]))
        each = [retrieval_statistics(row, int(setting["shots"])) for row in rows]
        scores = np.array([score for row in rows for _, score, _ in demos_of(row)])
        best = [demos_of(row)[ranks_of(row).index(min(ranks_of(row)))][1] for row in rows]
        low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
        table_rows.append(
            {
                **setting,
                **interval_columns([m["precision"] for m in each], unit_labels(rows), "precision"),
                **{key: mean_of_defined([m[key] for m in each]) for key in ("hit", "mrr", "coverage", "distinct")},
                "used": len({name for row in rows for name, *_ in demos_of(row)}),
                "similarity": float(scores.mean()),
                "q25": float(low),
                "median": float(middle),
                "q75": float(high),
                "best": float(np.mean(best)),
                "n": len(rows),
            }
        )
    return make_table(table_rows, "What was retrieved", note="precision, hit, mrr: demonstrations with the gold answer")


def retrieval_statistics(row: Mapping[str, Any], shots: int) -> dict[str, float]:
    """Precision, hit, mrr, coverage and distinct of one sample. Some arms show twice their shots."""
    answers = [normalize_text(answer) for *_, answer in demos_of(row)]
    gold = {normalize_text(answer) for answer in text_items(row, "gold")}
    options = {normalize_text(option) for option in text_items(row, "options")}
    ranks = [rank for rank, answer in zip(ranks_of(row), answers, strict=True) if answer in gold]
    return {
        "precision": len(ranks) / max(shots, len(answers)),
        "hit": float(bool(ranks)),
        "mrr": 1 / (1 + min(ranks)) if ranks else 0.0,
        "coverage": len(options & set(answers)) / len(options) if options else np.nan,
        "distinct": len(set(answers)) / len(answers),
    }
