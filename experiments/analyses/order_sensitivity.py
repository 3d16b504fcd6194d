"""How far does accuracy move between orders of the same demonstrations? (Lu et al., ACL 2022)

    sd             standard deviation (n - 1) of the orders' mean scores; range: highest minus lowest
    disagreement   mean over samples of the share of pairs of orders with different answers. It does not grow with the
                   number of orders, as "changed under any of them" does

The orders are the permutations of the axis `order` (`order.index: [0, 1, ...]`) if it has two or more, else all its
values that do not use the gold answer: the order of an oracle is not random.
"""

from itertools import combinations
from typing import Any

import numpy as np

from experiments import answered_samples, interval_columns, iter_settings, make_table, read_cells, require_sample_metric
from experiments.results.run_view import RunView
from experiments.stats import UnpairedError, read_answer, text_items, to_records, unit_labels
from icl import ConfigError, DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per setting. Raises ConfigError for fewer than two orders, UnpairedError for missing samples."""
    require_sample_metric(view)
    rows = answered_samples(view)
    rows = rows[rows["cell"].isin(_by_chance(view, rows))]
    if rows["order"].nunique() < 2:
        raise ConfigError(
            f"{view.path}: there is a single order. Make it an axis: order: permutation, and in grid "
            "order.index: [0, 1, 2]."
        )
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("order",)):
        orders = samples["order"].nunique()
        means = samples.groupby("order", sort=False)[view.metric].mean()
        changed, first = [], []
        for key, same in samples.groupby(["query", "seed"], sort=False):
            if len(same) != orders:
                raise UnpairedError(
                    f"query {key[0]}, seed {key[1]} was not answered under each of the {orders} orders. "
                    "Finish the run (the same `icl run` command)."
                )
            predictions = [read_answer(row) for row in to_records(same)]
            first.append(to_records(same)[0])
            changed.append(float(np.mean([a != b for a, b in combinations(predictions, 2)])))
        spread = {"sd": float(means.std(ddof=1)), "lowest": float(means.min()), "highest": float(means.max())}
        spread["range"] = spread["highest"] - spread["lowest"]
        disagreement_interval = interval_columns(changed, unit_labels(first), "disagreement")
        table_rows.append(
            {
                **setting,
                "orders": orders,
                "score": float(means.mean()),
                **spread,
                **disagreement_interval,
                "n": len(first),
            }
        )
    return make_table(table_rows, f"Sensitivity to the order of demonstrations ({view.measure})")


def _by_chance(view: RunView, rows: DataFrame) -> set[str]:
    """The cells to compare by order."""
    ordered = {digest: node for digest, cell in read_cells(view, rows).items() if (node := cell.get("order"))}
    permuted = {digest for digest, node in ordered.items() if node.get("name") == "permutation"}
    if len({ordered[digest].get("index") for digest in permuted}) > 1:
        return permuted
    oracles = set(
        rows[[any("saw the gold" in m for m in text_items(row, "marks")) for row in to_records(rows)]]["cell"]
    )
    return set(ordered) - oracles
