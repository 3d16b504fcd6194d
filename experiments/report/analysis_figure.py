"""The figure of an analysis: a panel per setting, a point with its interval per row, a color per measure.

An analysis names what to draw in `attrs["figure"]` of its table: the column of the rows (`x`), the columns of the
measures (`y`, whose intervals are `NAME_low` and `NAME_high`, or `low` and `high` for the first), and their unit. With
`by`, the values of that column are measures, and the only column of `y` has their numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.keys import AXES
from experiments.report.figure_files import (
    DOTS_PER_INCH,
    FORMATS,
    MARKS,
    METADATA,
    PANEL_WIDTH,
    POINT_HEIGHT,
    STYLE,
    import_matplotlib,
)
from experiments.report.figures import COLORS, PALETTE
from experiments.stats.arms import iter_arms
from experiments.store.store import report_write_errors
from icl.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


FEW_MEASURES = 3
"""With more measures, rows are higher and the legend stands beside the panels."""


def check_figure_file(path: Path) -> None:
    """Raises ConfigError if the suffix of a figure is no format, or matplotlib is not installed."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise ConfigError(f"--figure: {path} must end in {', '.join(f'.{one}' for one in FORMATS)}.")
    import_matplotlib()


def draw_analysis(frame: "DataFrame", name: str, path: Path) -> None:
    """Draws the table of an analysis.

    Args:
        frame: The table.
        name: The analysis, for errors.
        path: The file; its suffix is the format.

    Raises:
        ConfigError: The analysis has no figure, or as `check_figure_file`.
        StoreError: The file cannot be written.
    """
    check_figure_file(path)
    spec: Mapping[str, Any] | None = frame.attrs.get("figure")
    kind = path.suffix.removeprefix(".")
    if spec is None:
        raise ConfigError(f"--figure: '{name}' has a table and no figure. Use --csv for its numbers.")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if "by" in spec:
        frame, spec = _wide(frame, spec)
    columns = {str(spec["x"]), *spec["y"]}
    settings = [axis for axis in frame if axis in AXES and axis not in columns]
    panels = list(iter_arms(frame, settings))
    longest = max(len(rows) for _, rows in panels)
    with mpl.rc_context(STYLE), report_write_errors(path):
        many = max(1.0, len(spec["y"]) / FEW_MEASURES)
        size = (PANEL_WIDTH * len(panels), 0.9 + POINT_HEIGHT * max(longest, 3) * many)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True).ravel()
        for panel, (setting, rows) in zip(axes, panels, strict=True):
            panel.set_title(", ".join(f"{value} shots" if a == "shots" else str(value) for a, value in setting.items()))
            _draw_rows(panel, rows, spec)
        legend = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many > 1 else {}
        axes[-1 if legend else 0].legend(fontsize=7, frameon=False, **legend)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, dpi=DOTS_PER_INCH, metadata=METADATA[kind], bbox_inches="tight")


def _wide(frame: "DataFrame", spec: Mapping[str, Any]) -> "tuple[DataFrame, dict[str, Any]]":
    """A table with one row for each value of `x`: the values of the column `by` become measures."""
    (measure,) = spec["y"]
    groups = list(dict.fromkeys(frame[spec["by"]]))
    keys = [column for column in frame if column in AXES] + [spec["x"]]
    wide = frame[keys].drop_duplicates()
    for name in groups:
        part = frame.loc[frame[spec["by"]] == name, [*keys, measure, "low", "high"]]
        renamed = part.rename(columns={measure: name, "low": f"{name}_low", "high": f"{name}_high"})
        wide = wide.merge(renamed, on=keys, how="left")
    return wide, {**spec, "y": tuple(groups)}


def _draw_rows(panel: "Axes", rows: "DataFrame", spec: Mapping[str, Any]) -> None:
    """One point per row and measure, with its interval."""
    measures = list(spec["y"])
    for number, measure in enumerate(measures):
        shift = (number - (len(measures) - 1) / 2) * min(0.2, 0.8 / len(measures))
        low, high = _bounds(rows, measure, is_first=number == 0)
        means = rows[measure].to_numpy(float)
        panel.errorbar(
            means, [place + shift for place in range(len(rows))], xerr=[means - low, high - means], ls="",
            color=PALETTE[number % COLORS], marker=MARKS[number % len(MARKS)], ms=4, elinewidth=1,
            label=measure.replace("_", " "),
        )  # fmt: skip
    panel.axvline(0, color="#888888", lw=0.6)
    panel.set_yticks(range(len(rows)), [str(value) for value in rows[spec["x"]]])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlabel(f"{spec['measure']} (mean, 95 % interval)")


def _bounds(rows: "DataFrame", measure: str, is_first: bool) -> tuple[Any, Any]:
    """Both ends of the intervals; the means if the table has none."""
    for low, high in ((f"{measure}_low", f"{measure}_high"), *([("low", "high")] if is_first else [])):
        if low in rows:
            return rows[low].to_numpy(float), rows[high].to_numpy(float)
    means = rows[measure].to_numpy(float)
    return means, means
