"""Figures for a paper as PDF, PNG and SVG, with matplotlib: light, with embedded fonts, and equal for equal runs.

A task is one figure. With several numbers of shots a panel has a line per arm, otherwise a point per arm. More than
`facets.MAX_LINES` arms are divided into panels with common scales. Lines have their labels at their ends.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.facets import Facet, divide, spread_out
from experiments.report.figures import COLORS, PALETTE, LineStyle, LineStyles
from experiments.report.svg import padded_range
from experiments.report.tables import TaskTable
from experiments.store.store import report_write_errors, write_bytes
from icl.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png", "svg")
PANEL_WIDTH, PANEL_HEIGHT, POINT_HEIGHT = 3.3, 2.5, 0.24
"""The size of a panel in inches, and the height of an arm with one point."""
MAX_PANELS_WIDE = 3
DOTS_PER_INCH = 300
LABEL_GAP = 0.075
"""The least distance of two labels, as a share of the height of a panel."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (3, 1.5)))
MARKS = ("o", "s", "^", "D")
STYLE: Any = {
    "pdf.fonttype": 42,  # TrueType in the file: text can be selected, and journals accept it
    "svg.fonttype": "path",  # outlines: no font is needed to show it
    "svg.hashsalt": "mm-icl",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
METADATA: Mapping[str, Mapping[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def write_figures(
    tables: Sequence[tuple[str, TaskTable]], looks: LineStyles, measure: str, folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Writes one figure per table in each format.

    Args:
        tables: (name of the file, table) of each figure.
        looks: The styles of the rows.
        measure: The score in words, the title of its axis.
        folder: The folder, which is made.
        formats: Of FORMATS.

    Raises:
        ConfigError: matplotlib is not installed.
        StoreError: A file cannot be written.
    """
    mpl = import_matplotlib()
    written = []
    with mpl.rc_context(STYLE), report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables:
            for kind in formats:
                figure = draw_task(table, looks, measure)  # its layout changes when it is drawn
                path = folder / f"{name}.{kind}"
                content = io.BytesIO()  # on a full disk savefig would leave a part of a file
                figure.savefig(content, format=kind, dpi=DOTS_PER_INCH, metadata=METADATA[kind], bbox_inches="tight")
                write_bytes(path, content.getvalue())
                written.append(path)
    return written


def import_matplotlib() -> Any:
    """The module. Raises ConfigError if it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError(
            "figures are drawn with matplotlib, which is not installed: pip install 'mm-icl[figures]'"
        ) from error
    return mpl


def draw_task(table: TaskTable, looks: LineStyles, measure: str) -> "Figure":
    """The figure of one task. Panels have common scales."""
    from matplotlib.figure import Figure

    facets = divide(table)
    with_lines = len(table.shots) > 1
    wide = min(MAX_PANELS_WIDE, len(facets))
    tall = math.ceil(len(facets) / wide)
    arms = max(len(facet.table.rows) for facet in facets)
    height = PANEL_HEIGHT if with_lines else 0.7 + POINT_HEIGHT * arms
    figure = Figure(figsize=(PANEL_WIDTH * wide, height * tall + 0.3), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    ends = [
        end
        for row in table.rows
        for estimate in row.cells.values()
        for end in ((estimate.mean,) if row.baseline else (estimate.low, estimate.high))
    ]
    limits = padded_range(ends or [0, 1], 0.2)
    for i, (facet, panel) in enumerate(zip(facets, panels, strict=False)):
        panel.set_title(facet.caption, loc="left")
        if with_lines:
            _lines(panel, facet, looks)
            panel.set_ylim(limits)
            panel.set_xlim(_place(table.shots[0]) - 0.2, _place(table.shots[-1]) + 0.2)
            panel.set_xticks([_place(k) for k in table.shots], [str(k) for k in table.shots])
        else:
            _points(panel, facet, looks)
            panel.set_xlim(limits)
        scores, other = (panel.set_ylabel, panel.set_xlabel) if with_lines else (panel.set_xlabel, panel.set_ylabel)
        if not with_lines or i % wide == 0:
            scores(f"{measure} (mean, 95 % interval)")
        if with_lines:
            other("demonstrations (shots)")
            _labels(panel, facet, looks, limits)
    for panel in panels[len(facets) :]:
        panel.set_axis_off()
    figure.suptitle(table.task, x=0.01, ha="left", fontweight="bold", fontsize=9)
    return figure


def _place(shots: int) -> float:
    return math.log2(1 + shots)


def _lines(panel: "Axes", facet: Facet, looks: LineStyles) -> None:
    arms = [row for row in facet.table.rows if not row.baseline]
    for row in facet.table.rows:
        look, points = looks[row.labels, row.baseline], sorted(row.cells.items())
        means = [estimate.mean for _, estimate in points]
        if row.baseline:
            panel.plot([_place(k) for k, _ in points], means, ":", color=_color(look), marker="o", mfc="none", ms=4)
            continue
        shift = (arms.index(row) - (len(arms) - 1) / 2) * 0.035
        error = [[e.mean - e.low for _, e in points], [e.high - e.mean for _, e in points]]
        panel.errorbar(
            [_place(k) + shift for k, _ in points], means, error,
            color=_color(look), marker=MARKS[look.dash % len(MARKS)],
            ls=DASHES[look.dash % len(DASHES)], ms=4, lw=1.3, elinewidth=0.8, alpha=_opacity(look),
        )  # fmt: skip


def _labels(panel: "Axes", facet: Facet, looks: LineStyles, limits: tuple[float, float]) -> None:
    """Writes the name of each line beside its last point."""
    rows = list(facet.table.rows)
    heights = [sorted(row.cells.items())[-1][1].mean for row in rows]
    ends = [(height - limits[0]) / (limits[1] - limits[0]) for height in heights]
    places = spread_out(ends, LABEL_GAP, 0, 1)
    for row, place in zip(rows, places, strict=True):
        look = looks[row.labels, row.baseline]
        panel.annotate(
            facet.name(row), (1.02, place), xycoords="axes fraction", va="center", fontsize=7, color=_color(look),
            annotation_clip=False,
        )  # fmt: skip


def _points(panel: "Axes", facet: Facet, looks: LineStyles) -> None:
    rows = list(facet.table.rows)
    for height, row in enumerate(rows):
        look, (estimate,) = looks[row.labels, row.baseline], row.cells.values()
        error = None if row.baseline else [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
        panel.errorbar(
            [estimate.mean], [height], xerr=error, color=_color(look), marker=MARKS[look.dash % len(MARKS)], ms=4,
            elinewidth=1.1, alpha=_opacity(look), mfc="none" if row.baseline else None,
        )  # fmt: skip
    panel.set_yticks(range(len(rows)), [facet.name(row) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)


def _color(look: LineStyle) -> str:
    return PALETTE[look.color % COLORS]


def _opacity(look: LineStyle) -> float:
    return 0.5 if look.faint else 1.0
