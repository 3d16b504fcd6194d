"""Does a question need its image, its text, either, or both? Modality importance (MIS, Park et al., 2408.12763)

    MIS of j = mean score over the sets of modalities with j - mean score over the non-empty sets without j

With image P and question text T the sets are {P, T}, {P} and {T}; the empty set does not count, as in the paper:

    MIS P = (s{P,T} + s{P}) / 2 - s{T}        MIS T = (s{P,T} + s{T}) / 2 - s{P}

The signs of a sample name its class: `image` (only MIS P above 0), `text` (only MIS T), `both` (complementary). If
neither is above 0, the class is `either` (agnostic: one modality suffices) or `unanswered` (no right answer at all).
The six shares of a row are over samples answered under all three sets.

Run it with transforms: [[], [{name: images, how: removed, where: query}], [{name: questions, how: removed, where:
query}]]; `where: all` removes the demonstrations' too. If lower is better, the score enters as 1 - score.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import (
    RunView,
    add_cell_column,
    answered_samples,
    iter_settings,
    make_table,
    prefixed_interval,
    require_sample_metric,
)
from experiments.stats import UNIT
from icl import DataFrame

CLASSES = ("image", "text", "both", "either", "unanswered")
FULL_INPUT = "shown"


def analyze(view: RunView) -> DataFrame:
    """One row per setting. Raises ConfigError if one of the three sets of modalities was not run."""
    require_sample_metric(view)
    rows = add_cell_column(view, answered_samples(view, with_demos=False), FULL_INPUT, _set)
    rows = rows[rows[view.metric].notna()]
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("transforms",)):
        wide = samples.pivot_table(
            index=["query", "seed", UNIT], columns=FULL_INPUT, values=view.metric, aggfunc="mean"
        )
        if not {"PT", "P", "T"} <= set(wide):
            continue
        wide = wide.dropna()
        scores = {key: wide[key].to_numpy(dtype=float) for key in ("PT", "P", "T")}
        if view.better == "lower":
            scores = {key: 1 - value for key, value in scores.items()}
        both, image, text = (scores[key] for key in ("PT", "P", "T"))
        importance = {"mis_image": (both + image) / 2 - text, "mis_text": (both + text) / 2 - image}
        clusters = wide.index.get_level_values(UNIT).to_numpy()
        shares = [
            modality_class(a, b, any_) for a, b, any_ in zip(*importance.values(), both + image + text, strict=True)
        ]
        line: dict[str, Any] = {**setting}
        for name, values in importance.items():
            line |= prefixed_interval(values, clusters, name)
        table_rows.append({**line, **{name: shares.count(name) / len(shares) for name in CLASSES}, "n": len(shares)})
    return make_table(
        table_rows,
        f"What answers need ({view.measure})",
        note="shares of samples: which modality a right answer needs; either: one alone does; unanswered: none does",
        signed=tuple(f"mis_{name}{end}" for name in ("image", "text") for end in ("", "_low", "_high")),
        missing=f"{view.path}: no setting was run with both modalities, without images and without questions. "
        "In grid, transforms: [[], [{name: images, how: removed, where: query}], [{name: questions, how: "
        "removed, where: query}]].",
    )


def modality_class(image: float, text: float, answered_at_all: float) -> str:
    """The class of a sample by the signs of both scores, up to rounding."""
    needs = image > 1e-9, text > 1e-9
    if any(needs):
        return "both" if all(needs) else "image" if needs[0] else "text"
    return "either" if np.abs(answered_at_all) > 1e-9 else "unanswered"


def _set(cell: Mapping[str, Any]) -> str | None:
    """'PT', 'P' (without the question), 'T' (without the image), or None for any other change."""
    nodes = cell.get("transforms") or []
    if not nodes:
        return "PT"
    node = nodes[0] if len(nodes) == 1 else {}
    if node.get("how") != "removed" or node.get("where") not in ("query", "all"):
        return None
    return {"images": "T", "questions": "P"}.get(str(node.get("name")))
