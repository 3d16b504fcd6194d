"""Variance components of a score: the item, the draw of its demonstrations, their order.

Balanced nested random effects, estimated by mean squares (Searle, Casella and McCulloch 1992, ch. 3), for n items with
S draws each, and O orders of each draw if several were run:

    order = MS(order)     draw = (MS(draw) - MS(order)) / O     item = (MS(item) - MS(draw)) / (S O)

Without orders `draw` contains both. Estimates below zero are set to zero. Seeds are draws, because a draw belongs to
the query and the seed; a strategy that samples tokens adds its own randomness to the draw.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class VarianceComponents:
    """Variances in squared units of the score; `order` is None if each draw has one order."""

    item: float
    draw: float
    order: float | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Each component over their sum; all zero if nothing varies."""
        parts = {"item": self.item, "draw": self.draw, **({} if self.order is None else {"order": self.order})}
        total = sum(parts.values())
        return {name: value / total if total else 0.0 for name, value in parts.items()}


def variance_components(frame: "DataFrame", metric: str) -> VarianceComponents:
    """The variance components of one arm, or of arms that differ in `order` alone. Items that lack a draw are left out.

    Args:
        frame: Columns query, seed, the metric, and optionally order.
        metric: The column of scores.

    Raises:
        DataError: For one item, one draw, or several samples of a query under one seed.
    """
    orders = ["order"] if "order" in frame and frame["order"].nunique() > 1 else []
    scored = frame[frame[metric].notna()]
    if scored.duplicated(["query", "seed", *orders]).any():
        raise DataError("a query has several samples under one seed: split the frame by arm before its variance.")
    table = scored.pivot(index="query", columns=["seed", *orders], values=metric).dropna()
    draws = scored["seed"].nunique()
    if len(table) < 2 or draws < 2:
        raise DataError(f"a split of variance needs two queries and two seeds, not {len(table)} and {draws}.")
    y = table.to_numpy(dtype=np.float64).reshape(len(table), draws, -1)
    repeats = y.shape[2]
    of_draws, of_items = y.mean(axis=2), y.mean(axis=(1, 2))
    ms_item = draws * repeats * float(of_items.var(ddof=1))
    ms_draw = repeats * float(of_draws.var(axis=1, ddof=1).mean())
    item = max(0.0, (ms_item - ms_draw) / (draws * repeats))
    if not orders:
        return VarianceComponents(item, ms_draw)
    ms_order = float(y.var(axis=2, ddof=1).mean())
    return VarianceComponents(item, max(0.0, (ms_draw - ms_order) / repeats), ms_order)
