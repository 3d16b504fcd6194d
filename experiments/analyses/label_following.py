"""Following: with labels flipped or replaced by symbols, does the model answer as its demonstrations or as it knows?

    follow   the answer is what the demonstrations call the right one
    prior    it is what the task calls it
    other    it is neither (another label, or nothing that can be read): not counted as following, as 1 - accuracy does
    more     follow minus prior, of the same answers: above 0 it goes by its demonstrations rather than by what it knows

The first three sum to one. Chance is one over the number of labels. Samples whose right answer the map leaves alone (no
demonstration or option has it) tell nothing and are counted as `unmapped`. p is of `more`, Holm over the settings.
Where the reference of the run's `compare` has renamed labels too, `change` is `follow` less the reference's in pairs of
the same query and seed, with its own p over those comparisons.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses.shared import answered_samples, interval_columns, iter_settings, make_table
from experiments.stats.arms import UNIT
from experiments.stats.compare import compare
from experiments.stats.pairs import Pairs, paired_test
from experiments.stats.sample_rows import read_answer, text_items, to_records, unit_labels
from experiments.stats.significance import holm
from icl.errors import ConfigError, ICLError
from icl.metrics.normalize import normalize_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

SIGNED = ("more", "more_low", "more_high", "change", "change_low", "change_high")


def analyze(view: "RunView") -> "DataFrame":
    """A row a setting whose labels were renamed. Raises ConfigError where none was."""
    every = answered_samples(view)
    rows = every[[bool(text_items(row, "gold_before_after")) for row in to_records(every)]]
    if not len(rows):
        raise ConfigError(
            f"{view.path}: no labels were renamed. Run it with transforms: [flip_labels], [symbols] or [unlearn]."
        )
    predictions = [read_answer(row) for row in to_records(rows)]
    prior, follow = (
        [normalize_text(text_items(row, "gold_before_after")[i]) for row in to_records(rows)] for i in (0, 1)
    )
    rows = rows.assign(
        follow=[float(a == b) for a, b in zip(predictions, follow, strict=True)],
        prior=[float(a == b) for a, b in zip(predictions, prior, strict=True)],
    )
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, every):
        own = rows.loc[rows.index.intersection(samples.index)]
        if not len(own):
            continue
        followed, follows_prior = own["follow"].to_numpy(), own["prior"].to_numpy()
        result = paired_test(Pairs(follows_prior, followed, own[UNIT].to_numpy()))
        shares = {"prior": float(follows_prior.mean()), "other": float(np.mean((followed == 0) & (follows_prior == 0)))}
        more = {"more": result.difference, "more_low": result.low, "more_high": result.high, "p": result.p}
        counts = {"n": len(own), "unmapped": len(samples) - len(own)}
        table_rows.append(
            {
                **setting,
                **interval_columns(followed, unit_labels(to_records(own)), "follow"),
                **shares,
                **more,
                **counts,
            }
        )
    for line, p in zip(table_rows, holm([line["p"] for line in table_rows]), strict=True):
        line["p"] = float(p)
    note = "more: follow - prior; p after Holm" + _changes(view, rows, table_rows)
    return make_table(table_rows, "Do answers follow the demonstrations' labels?", note=note, signed=SIGNED)


def _changes(view: "RunView", rows: "DataFrame", table_rows: list[dict[str, Any]]) -> str:
    """Adds the change against the reference to the lines that have one, and gives the words for it."""
    try:
        tested = compare(rows, view.to, "follow", axes=view.axes, correct=view.correct).to_dict("records")
    except ICLError:  # no reference whose labels were renamed, or not of the same samples
        return ""
    for line in table_rows:
        own = next((row for row in tested if all(row[axis] == line[axis] for axis in view.axes if axis in line)), None)
        names = {"change": "difference", "change_low": "low", "change_high": "high", "change_p": "p_corrected"}
        line |= {name: math.nan if own is None else float(own[column]) for name, column in names.items()}
    against = ", ".join(f"{axis} {value}" for axis, value in view.to.items())
    return f"; change: of follow, against {against}"
