"""Arms that choose the same demonstrations, counted once.

Order, composer, decoding, scoring and the length of an answer change no demonstration (except `more_demonstrations`).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.stats.pairs import KEYS
from icl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

AXES_AFTER_CHOICE = ("order", "composer", "decoding", "answer_mode", "max_new_tokens")
"""The axes that do not change the demonstrations."""


def distinct_choices(view: "RunView", rows: "DataFrame", what: str) -> "tuple[RunView, DataFrame]":
    """A view that names its reference by axes that change the demonstrations, and one row per choice and sample.

    Args:
        view: The run.
        rows: Its samples.
        what: What is equal in arms with the same demonstrations, for the error.

    Raises:
        ConfigError: If the reference differs only in axes that do not change the demonstrations.
    """
    to = {axis: value for axis, value in view.to.items() if axis not in AXES_AFTER_CHOICE}
    if view.to and not to:
        raise ConfigError(
            f"{view.path}: {what} does not depend on {' and '.join(view.to)}. "
            "Use another reference, such as --to retriever=random."
        )
    same = [axis for axis in AXES_AFTER_CHOICE if axis in view.axes]
    rows = rows.drop_duplicates([*(axis for axis in view.axes if axis not in same), *KEYS])
    return replace(view, to=to), rows.assign(**dict.fromkeys(same, "any"))
