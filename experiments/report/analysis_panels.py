"""What the figure of an analysis has: a panel per setting, a row per value of a column, a point per measure.

An analysis names what to draw in `attrs["figure"]` of its table:

    x        the column of the rows
    y        the columns of the measures. Their intervals are NAME_low and NAME_high, or low and high for the first
    measure  the quantity and its unit, in words
    by       optional: a column whose values are the measures. The only column of `y` has their numbers
    n        optional: what the column `n` counts, in words
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.config.keys import AXES
from experiments.stats.arms import iter_arms
from icl.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame


class FigureSpec(BaseModel):
    """What the figure of an analysis draws: `attrs["figure"]` of its table."""

    model_config = ConfigDict(extra="forbid")

    x: str
    y: tuple[str, ...]
    measure: str
    by: str = ""
    n: str = ""


@dataclass(frozen=True)
class Measure:
    """The points of one measure, a value per row of the panel; NaN without a value."""

    name: str
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


@dataclass(frozen=True)
class AnalysisPanel:
    """One setting of the figure.

    Attributes:
        title: The setting.
        rows: The values of the column `x`.
        measures: The points of each measure.
    """

    title: str
    rows: tuple[str, ...]
    measures: tuple[Measure, ...]


def figure_spec(frame: "DataFrame", name: str) -> FigureSpec | None:
    """What the table of an analysis draws; None if it has no figure.

    Raises:
        ConfigError: A key is missing or unknown, or names a column that the table has not.
    """
    if frame.attrs.get("figure") is None:
        return None
    where = f"analysis '{name}': attrs['figure'] of its table"
    try:
        spec = FigureSpec.model_validate(frame.attrs["figure"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        problem = first["msg"].lower().replace("tuple", "list")
        raise ConfigError(f"{where}: {key}: {problem}. Keys: {', '.join(FigureSpec.model_fields)}.") from error
    columns = list(map(str, frame))
    for column in (spec.x, *spec.y, *([spec.by] if spec.by else [])):
        if column not in columns:
            raise ConfigError(f"{where} names the column '{column}', and it has none.{did_you_mean(column, columns)}")
    if not spec.y or (spec.by and len(spec.y) > 1):
        raise ConfigError(f"{where}: y must name {'one column, since `by` is set' if spec.by else 'a column'}.")
    return spec


def analysis_panels(frame: "DataFrame", spec: FigureSpec) -> list[AnalysisPanel]:
    """The panels of a table, one per combination of its axes and of the columns of `--by`."""
    used = {spec.x, spec.by, *spec.y}
    settings = [name for name in map(str, frame) if name in {*AXES, *frame.attrs.get("by", ())} and name not in used]
    return [
        AnalysisPanel(
            ", ".join(f"{value} shots" if axis == "shots" else str(value) for axis, value in setting.items()),
            *(_by_column(rows, spec) if spec.by else _by_measure(rows, spec)),
        )
        for setting, rows in iter_arms(frame, settings)
    ]


def figure_caption(frame: "DataFrame", spec: FigureSpec) -> str:
    """A sentence: what is plotted, the interval and n."""
    by = " and ".join(name.replace("_", " ") for name in (spec.x, spec.by) if name)
    caption = f"{spec.measure[:1].upper()}{spec.measure[1:]} by {by}: mean with its 95 % interval"
    counts = [int(value) for value in _floats(frame["n"]) if math.isfinite(value)] if "n" in frame else []
    if not counts:
        return f"{caption}."
    few, many = min(counts), max(counts)
    size = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    return f"{caption}, n = {size}{f' {spec.n}' if spec.n else ''}{'' if few == many else ' per point'}."


def _by_measure(rows: "DataFrame", spec: FigureSpec) -> tuple[tuple[str, ...], tuple[Measure, ...]]:
    """The labels of the rows, and each column of `y` as a measure."""
    measures = []
    for number, name in enumerate(spec.y):
        bounds = ((f"{name}_low", f"{name}_high"), *([("low", "high")] if number == 0 else []))
        low, high = next((pair for pair in bounds if pair[0] in rows and pair[1] in rows), (name, name))
        measures.append(Measure(name.replace("_", " "), *(_floats(rows[column]) for column in (name, low, high))))
    return tuple(map(str, rows[spec.x])), tuple(measures)


def _by_column(rows: "DataFrame", spec: FigureSpec) -> tuple[tuple[str, ...], tuple[Measure, ...]]:
    """The labels of the rows, and each value of the column `by` as a measure."""
    labels = list(dict.fromkeys(rows[spec.x]))
    measures = []
    for value, part in rows.groupby(spec.by, sort=False):
        own = part.drop_duplicates(spec.x).set_index(spec.x).reindex(labels).reset_index()
        (measure,) = _by_measure(own, spec)[1]
        measures.append(Measure(str(value).replace("_", " "), measure.means, measure.lows, measure.highs))
    return tuple(map(str, labels)), tuple(measures)


def _floats(values: "Sequence[Any] | Any") -> tuple[float, ...]:
    """The numbers of a column; NaN for what is none."""
    import pandas as pd

    return tuple(map(float, pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(float)))
