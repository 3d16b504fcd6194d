"""Following: with labels flipped or replaced by symbols, does the model answer as its demonstrations or as it knows?

    follow   the answer is what the demonstrations call the right one
    prior    it is what the task calls it
    other    it is neither (another label, or nothing that can be read): not counted as following, as 1 - accuracy does

The three sum to one. Chance is one over the number of labels. Samples whose right answer the map leaves alone (no
demonstration or option has it) tell nothing and are counted as `unmapped`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses.samples import answered, interval, settings, table
from experiments.stats.rows import records, said, texts, units
from icl.errors import ConfigError
from icl.metrics.normalise import plain

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.view import View


def analyse(view: "View") -> "DataFrame":
    """A row a setting whose labels were renamed. Raises ConfigError where none was."""
    rows = answered(view)
    found: list[dict[str, Any]] = []
    for setting, samples in settings(view, rows):
        every = records(samples)
        renamed = [row for row in every if texts(row, "renamed")]
        if not renamed:
            continue
        told = [said(row) for row in renamed]
        prior, follow = ([plain(texts(row, "renamed")[i]) for row in renamed] for i in (0, 1))
        followed = [a == b for a, b in zip(told, follow, strict=True)]
        known = [a == b for a, b in zip(told, prior, strict=True)]
        neither = [not (a or b) for a, b in zip(followed, known, strict=True)]
        shares = {"prior": float(np.mean(known)), "other": float(np.mean(neither))}
        counts = {"n": len(renamed), "unmapped": len(every) - len(renamed)}
        found.append({**setting, **interval(followed, units(renamed), "follow"), **shares, **counts})
    if not found:
        raise ConfigError(
            f"{view.path}: no labels were renamed. Run it with transforms: [flip_labels], [symbols] or [unlearn]."
        )
    return table(found, "Do answers follow the demonstrations' labels?")
