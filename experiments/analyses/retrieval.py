"""Are the demonstrations' answers right for the query, diverse, and near?

    precision   share of the k requested demonstrations with the query's gold answer as their answer
    hit, mrr    whether any is; 1 / rank of the first that is, else 0. Ranks are the retriever's, in any prompt order
    ndcg        sum over ranks r of grade / log2(1 + r), over its value in the best order of the same demonstrations; 0
                if all grades are 0. A grade is the share of the demonstration's answer among the query's gold answers,
                relative to the most frequent one: graded where annotators disagree, else 0 or 1
    rank_variance   of a demonstration's rank over the seeds of a query; where a seed lacks it, its rank is the number
                of shots. A mean over queries and demonstrations: the MRV of 1-to-K contrastive learning (2406.18254),
                with seeds in place of languages. NaN with one seed
    coverage    share of the query's options that some demonstration has as its answer; NaN without options
    distinct    different answers among the demonstrations, over their number
    used        different pool examples in the whole setting
    similarity  of the retriever's scores over all demonstrations: mean, quartiles, and the mean of the best ranked

Answers are read from the prompt, after transforms of labels. Recall and diversity of embeddings need the pool and an
encoder (`pool_coverage`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
                **{
                    key: mean_of_defined([m[key] for m in each])
                    for key in ("hit", "mrr", "ndcg", "coverage", "distinct")
                },
                "rank_variance": rank_variance(rows, int(setting["shots"])),
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
    """Precision, hit, mrr, ndcg, coverage and distinct of one sample. Some arms show twice their shots."""
    answers = [normalize_text(answer) for *_, answer in demos_of(row)]
    gold = Counter(normalize_text(answer) for answer in text_items(row, "gold"))
    options = {normalize_text(option) for option in text_items(row, "options")}
    ranks = [rank for rank, answer in zip(ranks_of(row), answers, strict=True) if answer in gold]
    grades = np.array([gold[answer] for _, answer in sorted(zip(ranks_of(row), answers, strict=True))], float)
    discounts = 1 / np.log2(np.arange(2, len(answers) + 2))
    return {
        "ndcg": float(grades @ discounts / (np.sort(grades)[::-1] @ discounts)) if grades.any() else 0.0,
        "precision": len(ranks) / max(shots, len(answers)),
        "hit": float(bool(ranks)),
        "mrr": 1 / (1 + min(ranks)) if ranks else 0.0,
        "coverage": len(options & set(answers)) / len(options) if options else np.nan,
        "distinct": len(set(answers)) / len(answers),
    }


def rank_variance(rows: Sequence[Mapping[str, Any]], shots: int) -> float:
    """The mean variance of ranks over the seeds of each query. rows: samples, one for each query and seed."""
    by_query: dict[str, list[dict[str, int]]] = {}
    for row in rows:
        names = [name for name, *_ in demos_of(row)]
        by_query.setdefault(str(row["query"]), []).append(dict(zip(names, ranks_of(row), strict=True)))
    variances = [
        float(np.var([ranks.get(name, shots) for ranks in seeds])) if len(seeds) > 1 else np.nan
        for seeds in by_query.values()
        for name in dict.fromkeys(name for ranks in seeds for name in ranks)
    ]
    return mean_of_defined(variances)
