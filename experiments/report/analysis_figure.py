"""The figure of an analysis as a file, with matplotlib: a point with its interval per row, a color per measure.

`experiments.report.analysis_panels` says what an analysis draws.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.report.analysis_panels import AnalysisPanel, FigureSpec, analysis_panels, figure_spec
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
        ConfigError: The analysis has no figure, or as `check_figure_file` and `figure_spec`.
        StoreError: The file cannot be written.
    """
    check_figure_file(path)
    spec = figure_spec(frame, name)
    kind = path.suffix.removeprefix(".")
    if spec is None:
        raise ConfigError(f"--figure: '{name}' has a table and no figure. Use --csv for its numbers.")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = analysis_panels(frame, spec)
    longest = max(len(panel.rows) for panel in panels)
    with mpl.rc_context(STYLE), report_write_errors(path):
        many = max(1.0, len(panels[0].measures) / FEW_MEASURES)
        size = (PANEL_WIDTH * len(panels), 0.9 + POINT_HEIGHT * max(longest, 3) * many)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True).ravel()
        for subplot, panel in zip(axes, panels, strict=True):
            subplot.set_title(panel.title)
            _draw_rows(subplot, panel, spec)
        legend = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many > 1 else {}
        axes[-1 if legend else 0].legend(fontsize=7, frameon=False, **legend)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, dpi=DOTS_PER_INCH, metadata=METADATA[kind], bbox_inches="tight")


def _draw_rows(axes: "Axes", panel: AnalysisPanel, spec: FigureSpec) -> None:
    """One point per row and measure, with its interval."""
    for number, measure in enumerate(panel.measures):
        shift = (number - (len(panel.measures) - 1) / 2) * min(0.2, 0.8 / len(panel.measures))
        means, lows, highs = (np.array(values) for values in (measure.means, measure.lows, measure.highs))
        axes.errorbar(
            means, [place + shift for place in range(len(means))], xerr=[means - lows, highs - means], ls="",
            color=PALETTE[number % COLORS], marker=MARKS[number % len(MARKS)], ms=4, elinewidth=1, label=measure.name,
        )  # fmt: skip
    axes.axvline(0, color="#888888", lw=0.6)
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.set_xlabel(f"{spec.measure} (mean, 95 % interval)")
