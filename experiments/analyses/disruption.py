"""How far does a score move if one demonstration is swapped for its nearest neighbor?

    gap       mean over queries and places of |score(S) - score(S_i)|; S_i are the demonstrations with the i-th swapped
    net       mean of score(S_i) - score(S): changes in both directions cancel here, but not in the gap
    changed   share of (query, place) with another answer

The absolute value is taken per query and place. Places count from the best demonstration, 1; `any` is over all places
that were run. Arms are the retriever `neighbor_swap`, against the retriever inside it as an arm of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import answered_samples, interval_columns, iter_settings, make_table, read_cells, require_sample_metric
from experiments.results.run_view import RunView
from experiments.stats import read_answer, text_items, to_records, unit_labels
from icl import DataFrame
from retrievers.wrappers import SWAPPED

NAME = "neighbor_swap"
BASE, PLACE = "base", "place"
Row = Mapping[str, Any]


def analyze(view: RunView) -> DataFrame:
    """One row per setting and place ('any', then 1, 2, …). Raises ConfigError without an arm and its base."""
    require_sample_metric(view)
    rows = answered_samples(view)
    rows = rows[rows[view.metric].notna()]
    cells = {digest: _parts(cell) for digest, cell in read_cells(view, rows).items()}
    rows = rows.assign(
        **{BASE: rows["cell"].map(lambda d: cells[d][0]), PLACE: rows["cell"].map(lambda d: cells[d][1])}
    )
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("retriever",)):
        for _, own in samples.groupby(BASE, sort=False):
            whole = {_key(row): row for row in to_records(own[own[PLACE] < 0])}
            swapped = [
                row
                for row in to_records(own[own[PLACE] >= 0])
                if any(SWAPPED in mark for mark in text_items(row, "marks")) and _key(row) in whole
            ]
            if not swapped:
                continue
            label = next(iter(whole.values()))["retriever"]
            places = sorted({int(row[PLACE]) for row in swapped})
            for name, chosen in [("any", places), *((str(place + 1), [place]) for place in places)]:
                mine = [row for row in swapped if int(row[PLACE]) in chosen]
                gap = _gap(mine, [whole[_key(row)] for row in mine], view.metric)
                table_rows.append({**setting, "retriever": label, "place": name, **gap})
    return make_table(
        table_rows,
        f"The effect of one swapped demonstration ({view.measure})",
        signed=("net",),
        missing=f"{view.path}: no arm with a swapped demonstration has its arm without the swap. In grid, retriever: "
        "[knn, {name: neighbor_swap, of: knn, position: 0}, {name: neighbor_swap, of: knn, position: 1}].",
    )


def _gap(swapped: Sequence[Row], whole: Sequence[Row], metric: str) -> dict[str, float]:
    moved = np.array([float(a[metric]) - float(b[metric]) for a, b in zip(swapped, whole, strict=True)])
    other = [read_answer(a) != read_answer(b) for a, b in zip(swapped, whole, strict=True)]
    return {
        **interval_columns(np.abs(moved), unit_labels(swapped), "gap"),
        "net": float(moved.mean()),
        "changed": float(np.mean(other)),
        "n": len(moved),
    }


def _key(row: Row) -> tuple[Any, Any]:
    return row["query"], row["seed"]


def _parts(cell: Mapping[str, Any]) -> tuple[str, int]:
    """(the retriever inside, the swapped place or -1)."""
    node = cell.get("retriever") or {}
    if node.get("name") == NAME:
        return repr(node.get("of")), int(node.get("position", 0))
    return repr(node), -1
