"""With flipped or symbolic labels, does the model follow the demonstrations or its prior knowledge?

    follow   the answer is right under the labels of the demonstrations
    prior    the answer is right under the labels of the task
    other    neither (another label, or no readable answer); it does not count as following
    more     follow minus prior over the same answers; above 0 the model follows the demonstrations

The first three sum to one. Chance is one over the number of labels. Samples where the right answer keeps its label are
left out and counted as `unmapped`. p tests `more`, corrected with Holm over the settings, and the interval agrees with
it. If the reference of the run's `compare` has transformed labels too, `change` is the difference in `follow` from the
reference, paired by query and seed, with its own p over those comparisons.
"""

import math
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table
from experiments.stats import UNIT, Pairs, corrected_tests, read_answer, text_items, to_records, unit_labels
from experiments.stats.compare import compare
from icl import ConfigError, DataFrame, ICLError, normalize_text

SIGNED = ("more", "more_low", "more_high", "change", "change_low", "change_high")


def analyze(view: RunView) -> DataFrame:
    """One row per setting with transformed labels. Raises ConfigError if there is none."""
    every = answered_samples(view)
    rows = every[[bool(text_items(row, "gold_before_after")) for row in to_records(every)]]
    if not len(rows):
        raise ConfigError(
            f"{view.path}: no labels were transformed. Run it with transforms: [flip_labels], [symbols] or [unlearn]."
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
    compared: list[Pairs] = []
    for setting, samples in iter_settings(view, every):
        own = rows.loc[rows.index.intersection(samples.index)]
        if not len(own):
            continue
        followed, follows_prior = own["follow"].to_numpy(), own["prior"].to_numpy()
        compared.append(Pairs(follows_prior, followed, own[UNIT].to_numpy()))
        shares = {"prior": float(follows_prior.mean()), "other": float(np.mean((followed == 0) & (follows_prior == 0)))}
        more = dict.fromkeys(("more", "more_low", "more_high", "p"), math.nan)
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
    for line, result in zip(table_rows, corrected_tests(compared), strict=True):
        line |= {"more": result.difference, "more_low": result.low, "more_high": result.high, "p": result.p}
    note = "more: follow - prior; p after Holm" + _changes(view, rows, table_rows)
    return make_table(table_rows, "Do answers follow the demonstrations' labels?", note=note, signed=SIGNED)


def _changes(view: RunView, rows: DataFrame, table_rows: list[dict[str, Any]]) -> str:
    """Adds the change against the reference to the rows that have one, and returns its note."""
    try:
        tested = compare(rows, view.to, "follow", axes=view.axes, correct=view.correct).to_dict("records")
    except ICLError:  # no reference with transformed labels on the same samples
        return ""
    for line in table_rows:
        own = next((row for row in tested if all(row[axis] == line[axis] for axis in view.axes if axis in line)), None)
        names = {"change": "difference", "change_low": "low", "change_high": "high", "change_p": "p_corrected"}
        line |= {name: math.nan if own is None else float(own[column]) for name, column in names.items()}
    against = ", ".join(f"{axis} {value}" for axis, value in view.to.items())
    return f"; change: of follow, against {against}"
