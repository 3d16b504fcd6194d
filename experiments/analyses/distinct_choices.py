"""What demonstrations say by themselves: arms that differ only in what comes after the choice are one.

Order, composer, decoding, scoring and the length of an answer change no demonstration (`more_demonstrations` aside).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.stats.pairs import KEYS
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

AXES_AFTER_CHOICE = ("order", "composer", "decoding", "answer_mode", "max_new_tokens")
"""Axes that come after the choice."""


def distinct_choices(view: "RunView", rows: "DataFrame", what: str) -> "tuple[RunView, DataFrame]":
    """The view with a reference that can have chosen otherwise, and of equal choices the first.

    what: that is the same, for the error. Raises ConfigError where the reference is named by later axes alone.
    """
    to = {axis: value for axis, value in view.to.items() if axis not in AXES_AFTER_CHOICE}
    if view.to and not to:
        raise ConfigError(
            f"{view.path}: {what} is the same whatever {' and '.join(view.to)} is. "
            "Name another reference, such as --to retriever=random."
        )
    same = [axis for axis in AXES_AFTER_CHOICE if axis in view.axes]
    rows = rows.drop_duplicates([*(axis for axis in view.axes if axis not in same), *KEYS])
    return replace(view, to=to), rows.assign(**dict.fromkeys(same, "any"))
