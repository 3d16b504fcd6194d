"""How much of the pools do the demonstrations cover? Recall, coverage and diversity (`retrieval` needs no pool)

    recall           share of the pool members with the gold answer that are demonstrations; undefined without such a
                     member. The pool excludes the query itself and everything with its image
    coverage_labels  share of the labels in that pool that some demonstration has
    coverage_pool    share of the members of all pools that are demonstrations anywhere in the setting
    coverage_tokens  share of the distinct words of the query's question that some demonstration's question has
    diversity        mean over unordered pairs of demonstrations of 1 - cosine of their images, by the shipped image
                     encoder (intra-list diversity); undefined for a single demonstration

The task is built again from the run's config, so its data must still be in place. Answers and labels come from
the pool, without transforms.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from experiments import answered_samples, interval_columns, iter_settings, make_table, mean_of_defined, run_tasks
from experiments.results.run_view import RunView
from experiments.stats import demos_of, text_items, to_records, unit_labels
from icl import DataError, DataFrame, Example, Pool, Query, normalize_text
from retrievers import EXCLUDE_LEAKS, Encoder, Vectors, shared_cache, split_words


def analyze(view: RunView) -> DataFrame:
    """One row per setting; arms with the same demonstrations have the same numbers."""
    table_rows: list[dict[str, Any]] = []
    rows_of = answered_samples(view)
    tasks = run_tasks(view, rows_of)
    for setting, samples in iter_settings(
        view, rows_of, without=("model", "order", "composer", "decoding", "answer_mode")
    ):
        rows = to_records(samples.drop_duplicates(["query", "seed"]))
        task = tasks[str(rows[0]["task"])]
        queries = {example.id: example.query for example in task.queries}
        pools = {str(row["query"]): task.pool(str(row["query"])) for row in rows}
        demos = [_members(row, pools[str(row["query"])]) for row in rows]
        each = [
            pool_coverage(row, own, pools[str(row["query"])], queries[str(row["query"])])
            for row, own in zip(rows, demos, strict=True)
        ]
        everyone = {example.id for pool in {id(p): p for p in pools.values()}.values() for example in pool.examples}
        embedder_nodes = [
            (m["recall"], unit) for m, unit in zip(each, unit_labels(rows), strict=True) if not np.isnan(m["recall"])
        ]
        diversities = diversity(demos)
        table_rows.append(
            {
                **setting,
                **interval_columns(
                    [value for value, _ in embedder_nodes], [unit for _, unit in embedder_nodes], "recall"
                ),
                "coverage_labels": float(np.mean([m["labels"] for m in each])),
                "coverage_pool": len({example.id for own in demos for example in own}) / len(everyone),
                "coverage_tokens": mean_of_defined([m["tokens"] for m in each]),
                "diversity": mean_of_defined(diversities),
                "n": len(rows),
            }
        )
    return make_table(
        table_rows, "Coverage of the pools by the demonstrations", note="recall: over the pool of the query"
    )


def pool_coverage(row: Mapping[str, Any], demos: Sequence[Example], pool: Pool, query: Query) -> dict[str, float]:
    """Recall, label coverage and token coverage of one sample; NaN where undefined."""
    gold = {normalize_text(answer) for answer in text_items(row, "gold")}
    allowed = list(filter(EXCLUDE_LEAKS.allowed_for(query), pool.examples))
    right = {example.id for example in allowed if normalize_text(example.answer) in gold}
    labels = {normalize_text(example.class_name) for example in allowed}
    question_words = set(split_words(query.question))
    demo_words = {word for example in demos for word in split_words(example.question)}
    return {
        "recall": len(right & {example.id for example in demos}) / len(right) if right else np.nan,
        "labels": len(labels & {normalize_text(example.class_name) for example in demos}) / len(labels),
        "tokens": len(question_words & demo_words) / len(question_words) if question_words else np.nan,
    }


def diversity(demos: Sequence[Sequence[Example]]) -> list[float]:
    """The diversity of each list of demonstrations; NaN without a pair of images."""
    members = {example.id: example for own in demos for example in own if example.images}
    if not members:
        return [np.nan] * len(demos)
    vectors = dict(zip(members, _vectors(list(members.values())), strict=True))
    return [mean_pairwise_distance([vectors[example.id] for example in own if example.id in vectors]) for own in demos]


def mean_pairwise_distance(rows: Sequence[Vectors]) -> float:
    """The mean of 1 - cosine over unordered pairs of unit vectors [n, D]."""
    pairs = [1 - float(one @ other) for one, other in combinations(rows, 2)]
    return float(np.mean(pairs)) if pairs else np.nan


def _vectors(members: Sequence[Example]) -> Vectors:
    return shared_cache(Encoder(), None).embed_images(members)


def _members(row: Mapping[str, Any], pool: Pool) -> list[Example]:
    names = [name for name, *_ in demos_of(row)]
    if unknown := next((name for name in names if name not in pool.by_id), None):
        raise DataError(
            f"query '{row['query']}' has the demonstration '{unknown}', which is not in its pool: the data changed."
        )
    return [pool.by_id[name] for name in names]
