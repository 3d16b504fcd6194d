"""How often does an answer copy a demonstration, by its place? (Baldassini et al. 2024)

    any      P(the prediction is the answer of some demonstration)
    chance   the same with predictions and contexts of different queries: the exact mean over all such pairs
    place    P(the prediction is the answer of demonstration i), in contexts that contain this answer once, so that a
             copy has one source; `copied_all` counts all contexts (with yes/no and three shots no answer occurs once)
    wrong    the same in all contexts, among wrong answers: with good retrieval the demonstrations share the gold
             answer, so a perfect model copies too. Wrong means a score below the best (above 0 if lower is better);
             undefined without a good direction

Places count from the query; 1 is next to it. Recency is place 1 above the others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table, require_sample_metric
from experiments.analyses.shared import BEST_SCORE
from experiments.stats import demos_of, read_answer, to_records, unit_labels
from icl import DataFrame, normalize_text

Row = Mapping[str, Any]


def analyze(view: RunView) -> DataFrame:
    """One row per setting and place ('any', then 1, 2, … from the query)."""
    require_sample_metric(view)
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, answered_samples(view)):
        rows = to_records(samples)
        predictions = [read_answer(row) for row in rows]
        demo_answers = [[normalize_text(answer) for *_, answer in demos_of(row)] for row in rows]
        right = [view.better == "neither" or row[view.metric] == BEST_SCORE[view.better] for row in rows]
        table_rows.append({**setting, "place": "any", **_any(rows, predictions, demo_answers, right)})
        for place in range(1, max(map(len, demo_answers)) + 1):
            table_rows.append({**setting, "place": str(place), **_at(place, rows, predictions, demo_answers, right)})
    return make_table(
        table_rows,
        "Answers copied from demonstrations, by place from the query",
        note=(
            "place: 1 is next to the query; copied: if the answer of the place occurs once in the prompt; copied all: "
            "in all prompts; copied wrong: in all prompts, among wrong answers; chance: with other queries' prompts"
        ),
    )


def _any(
    rows: Sequence[Row], predictions: Sequence[str], demo_answers: Sequence[list[str]], right: Sequence[bool]
) -> dict[str, Any]:
    hits = [word in answers for word, answers in zip(predictions, demo_answers, strict=True)]
    wrong = [hit for hit, good in zip(hits, right, strict=True) if not good]
    counts = {"copied_all": _mean(hits), "copied_wrong": _mean(wrong), "n_wrong": len(wrong)}
    return {
        **interval_columns(hits, unit_labels(rows), "copied"),
        "n": len(hits),
        **counts,
        "chance": chance(rows, predictions, demo_answers),
    }


def _at(
    place: int,
    rows: Sequence[Row],
    predictions: Sequence[str],
    demo_answers: Sequence[list[str]],
    right: Sequence[bool],
) -> dict[str, Any]:
    there = [i for i, answers in enumerate(demo_answers) if len(answers) >= place]
    hits = {i: predictions[i] == demo_answers[i][-place] for i in there}
    once = [i for i in there if demo_answers[i].count(demo_answers[i][-place]) == 1]
    wrong = [hits[i] for i in there if not right[i]]
    counts = {"copied_all": _mean(list(hits.values())), "copied_wrong": _mean(wrong), "n_wrong": len(wrong)}
    own = [hits[i] for i in once]
    return {
        **interval_columns(own, unit_labels([rows[i] for i in once]), "copied"),
        "n": len(once),
        **counts,
        "chance": np.nan,
    }


def chance(rows: Sequence[Row], predictions: Sequence[str], demo_answers: Sequence[Sequence[str]]) -> float:
    """The copy rate over all pairs of a prediction and the context of another query; NaN for a single query."""
    everywhere = Counter(answer for answers in demo_answers for answer in set(answers))
    by_query: dict[Any, Counter[str]] = {}
    size: Counter[Any] = Counter()
    for row, answers in zip(rows, demo_answers, strict=True):
        by_query.setdefault(row["query"], Counter()).update(set(answers))
        size[row["query"]] += 1
    pairs = sum(len(rows) - size[row["query"]] for row in rows)
    hits = sum(everywhere[word] - by_query[row["query"]][word] for row, word in zip(rows, predictions, strict=True))
    return hits / pairs if pairs else np.nan


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else np.nan
