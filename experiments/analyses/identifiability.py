"""Do the demonstrations determine the answer? Scores if they do, and if they do not.

A few demonstrations of a hidden rule may fit several rules (2 ? 2 = 4 is a sum and a product). Then no model can know
the answer, and the ceiling is below 1. A task reports this for each sample in `meta.identifiable`: `operators` and
`interleaved_operators` do, for the demonstrations after all transforms.

    identifiable   share of samples with demonstrations that fit one rule
    where, else    the score of these samples, and of the others
"""

from collections.abc import Mapping
from typing import Any

from experiments import (
    RunView,
    answered_samples,
    interval_columns,
    iter_settings,
    make_table,
    prefixed_interval,
    require_sample_metric,
)
from experiments.stats import as_mapping, to_records, unit_labels
from icl import DataFrame

FACT = "identifiable"


def analyze(view: RunView) -> DataFrame:
    """One row per setting, 0 shots included. Raises ConfigError if no sample has `meta.identifiable`."""
    require_sample_metric(view)
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, answered_samples(view, with_demos=False)):
        rows = [row for row in to_records(samples[samples[view.metric].notna()]) if _is_identifiable(row) is not None]
        if not rows:
            continue
        line: dict[str, Any] = {
            **setting,
            **interval_columns([bool(_is_identifiable(row)) for row in rows], unit_labels(rows), FACT),
        }
        for name, own in (
            ("where", [r for r in rows if _is_identifiable(r)]),
            ("else", [r for r in rows if not _is_identifiable(r)]),
        ):
            line |= prefixed_interval([row[view.metric] for row in own], unit_labels(own), name)
        table_rows.append({**line, "n": len(rows)})
    return make_table(
        table_rows,
        f"Scores by whether the demonstrations determine the answer ({view.measure})",
        missing=f"{view.path}: no sample has `meta.identifiable`. The tasks 'operators' and "
        "'interleaved_operators' do, in runs of this version.",
    )


def _is_identifiable(row: Mapping[str, Any]) -> bool | None:
    return as_mapping(row.get("meta")).get(FACT)
