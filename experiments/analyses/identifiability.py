"""Can the demonstrations tell the answer at all? Scores where they settle the question, and where they do not.

Few demonstrations of a hidden rule may fit several (2 ? 2 = 4 is a sum and a product): no model can know then, and the
ceiling is below 1. A task that can tell says so of each sample (`meta.identifiable`; `operators` and
`interleaved_operators` do, under what the demonstrations show after all transforms).

    identifiable   share of samples whose demonstrations leave one rule
    where, else    the score of these, and of the others
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import (
    answered_samples,
    interval_columns,
    iter_settings,
    make_table,
    require_sample_metric,
)
from experiments.stats.sample_rows import to_records, unit_labels
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

FACT = "identifiable"


def analyze(view: "RunView") -> "DataFrame":
    """A row a setting, 0 shots too. Raises ConfigError where no sample says whether its answer can be known."""
    require_sample_metric(view)
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, answered_samples(view, with_demos=False)):
        rows = [row for row in to_records(samples[samples[view.metric].notna()]) if _settled(row) is not None]
        if not rows:
            continue
        line: dict[str, Any] = {
            **setting,
            **interval_columns([bool(_settled(row)) for row in rows], unit_labels(rows), FACT),
        }
        for name, own in (("where", [r for r in rows if _settled(r)]), ("else", [r for r in rows if not _settled(r)])):
            intervals = interval_columns([row[view.metric] for row in own], unit_labels(own), name)
            line |= {name: intervals[name], f"{name}_low": intervals["low"], f"{name}_high": intervals["high"]}
        table_rows.append({**line, "n": len(rows)})
    if not table_rows:
        raise ConfigError(
            f"{view.path}: no sample says whether its demonstrations settle the question. The tasks 'operators' and "
            "'interleaved_operators' do, in runs of this version."
        )
    return make_table(table_rows, f"Where the demonstrations settle the question, and elsewhere ({view.measure})")


def _settled(row: Mapping[str, Any]) -> bool | None:
    meta = row.get("meta")
    return meta.get(FACT) if isinstance(meta, Mapping) else None
