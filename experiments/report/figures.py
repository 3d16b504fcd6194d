"""Figures of a score against the number of shots: a panel per task, or several if a task has many arms (`facets`).

The color shows the retriever; dash and mark show the decoding. If all arms have the same demonstrations, the color also
shows the decoding. Shots are at log2(1 + k). Points have 95 % intervals and are shifted a little, so that intervals of
neighbors do not overlap. Dotted lines with rings are the vote of the same demonstrations, without a model. Each line
has its name at its end.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from experiments.report.facets import Facet, divide, spread_out
from experiments.report.svg import LinearScale, element, escape_text, padded_range, ticks
from experiments.report.tables import ScoreRow, TaskTable
from experiments.stats.formatting import format_count, format_share
from experiments.stats.intervals import Estimate

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 136, 14, 40
LABEL_HEIGHT, LABEL_LETTERS = 13, 18
"""The height of a line's name in pixels, and its largest number of letters."""
DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 2")
MARKS = ("circle", "square", "triangle", "diamond")
COLORS = 8
PALETTE = ("#0b6cb8", "#c8500a", "#00805c", "#a8478c", "#8a6a00", "#3d4fc4", "#5f6b00", "#666666")
"""Colors after Okabe and Ito, darkened: on white, each has a contrast of at least 4.5 : 1."""
DARK = ("#5cb3f0", "#ff9b5c", "#3fd0a3", "#e8a0d0", "#e6c24a", "#a5b0ff", "#c3d05a", "#b5b5b5")
STYLE = (
    ".line{fill:none;stroke-width:2}.bar{stroke-width:1.5;opacity:.55}.vote{stroke-width:1.5;fill:none;opacity:.8}.faint{opacity:.42}"
    ".grid{stroke:#8884;stroke-width:1}.tick{font:12px system-ui,sans-serif;fill:#666}"
    ".key{font:12px system-ui,sans-serif;fill:#333}.title{font:600 14px system-ui,sans-serif;fill:#222}"
    ".label{font:11px system-ui,sans-serif}"
    + "".join(f".s{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, c in enumerate(PALETTE))
    + "@media(prefers-color-scheme:dark){.tick{fill:#aaa}.key,.title{fill:#ddd}"
    + "".join(f".s{i}{{stroke:{c}}}.f{i}{{fill:{c}}}" for i, c in enumerate(DARK))
    + "}"
)


@dataclass(frozen=True)
class LineStyle:
    """The style of a row's line, equal in every panel.

    Attributes:
        color: The number of its color.
        dash: The number of its dash and mark.
        faint: Whether it is a control, which is behind its strategy.
        series: Its number among all rows, by which the key of the page shows and hides it.
    """

    color: int
    dash: int = 0
    faint: bool = False
    series: int = 0


LineStyles = dict[tuple[tuple[str, ...], bool], LineStyle]
"""The style of each row by its labels and whether it is a baseline."""


@dataclass(frozen=True)
class PlottedRow:
    """A row of the table with its style."""

    row: ScoreRow
    look: LineStyle

    @property
    def points(self) -> list[tuple[int, Estimate]]:
        return sorted(self.row.cells.items())


def assign_line_styles(tables: Sequence[TaskTable], controls: Collection[str] = ()) -> LineStyles:
    """The style of every row of a run. controls: labels of decodings that are controls."""
    styles: LineStyles = {}
    colors: dict[tuple[str, ...], int] = {}
    dashes: dict[str, int] = {}
    arms = [row for table in tables for row in table.rows if not row.baseline]
    alone = len({row.labels[:-1] for row in arms}) < 2  # colors only distinguish decodings
    for row in arms:
        *demos, last = row.labels
        color = colors.setdefault(row.labels if alone else tuple(demos), len(colors))
        dash = dashes.setdefault(last, len(dashes))
        styles.setdefault((row.labels, False), LineStyle(color, dash, last in controls, len(styles)))
    for row in (row for table in tables for row in table.rows if row.baseline):
        labels = set(filter(None, row.labels[:-1]))
        like = [] if alone else [color for demos, color in colors.items() if labels <= set(demos)]
        color = like[0] if like else COLORS - 1
        styles.setdefault((row.labels, True), LineStyle(color, series=len(styles)))
    return styles


def drop_decodings(tables: Sequence[TaskTable], decodings: Collection[str]) -> list[TaskTable]:
    """The tables without the rows of these decodings."""
    return [
        replace(table, rows=tuple(row for row in table.rows if not _of(table, row) & set(decodings)))
        for table in tables
    ]


def _of(table: TaskTable, row: ScoreRow) -> set[str]:
    return {label for axis, label in zip(table.axes, row.labels, strict=True) if axis == "decoding"}


def draw_panels(table: TaskTable, looks: LineStyles, measure: str) -> list[tuple[str, str]]:
    """(caption, SVG without a style sheet) of each panel of a task, with common scales. measure: the score in words."""
    values = [
        value
        for row in table.rows
        for estimate in row.cells.values()
        for value in ((estimate.mean,) if row.baseline else (estimate.low, estimate.high))
    ]
    limits = padded_range(values or [0, 1], 0.2)
    return [
        (": ".join(filter(None, (table.task, facet.caption))), _draw_panel(facet, looks, measure, limits))
        for facet in divide(table)
    ]


def _draw_panel(facet: Facet, looks: LineStyles, measure: str, limits: tuple[float, float]) -> str:
    table = facet.table
    plotted = [PlottedRow(row, looks[row.labels, row.baseline]) for row in table.rows]
    y = LinearScale(*limits, HEIGHT - BOTTOM, TOP)
    places = [math.log2(1 + k) for k in table.shots]
    one = len(places) == 1
    x = LinearScale(min(places) - one, max(places) + one, LEFT + 22, WIDTH - RIGHT - 22)
    lines = [s for s in plotted if not s.row.baseline]
    step = min(24.0, 320 / max(1, len(lines))) if one else min(5.0, 28 / max(1, len(lines)))
    inside = [_frame(table.shots, x, y, measure)]
    inside += [_dotted(s, x, y) for s in plotted if s.row.baseline]
    shifted = [(s, (i - (len(lines) - 1) / 2) * step) for i, s in enumerate(lines)]
    inside += [_line(s, x, y, shift, table) for s, shift in sorted(shifted, key=lambda pair: not pair[0].look.faint)]
    inside += _labels(facet, plotted, y)
    label = f"{measure} against the number of demonstrations, {', '.join(filter(None, (table.task, facet.caption)))}"
    return element("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="panel")


def draw_figure(table: TaskTable, looks: LineStyles, measure: str) -> str:
    """The SVG of one task as a file of its own: title, panels, key and style sheet."""
    rows = [row for row in table.rows if row.cells]
    panels = draw_panels(table, looks, measure)
    step = HEIGHT + 24
    height = step * len(panels) + 10 + 18 * len(rows)
    keys = [
        element(
            "g",
            draw_key_sample(looks[r.labels, r.baseline], r.baseline),
            element("text", escape_text(r.name), x=40, y=12, class_="key"),
            transform=f"translate({LEFT} {step * len(panels) + 4 + 18 * i})",
        )
        for i, r in enumerate(rows)
    ]
    inner = [
        element("text", escape_text(caption), x=LEFT, y=step * i + 18, class_="title")
        + panel.replace("<svg ", f'<svg y="{step * i + 22}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for i, (caption, panel) in enumerate(panels)
    ]
    return element(
        "svg", element("style", STYLE), *inner, *keys,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
    )  # fmt: skip


def draw_key_sample(look: LineStyle, baseline: bool) -> str:
    """A line sample for the key: 34 x 16 pixels."""
    if baseline:
        line = element("path", d="M2 8H32", class_=f"vote s{look.color % COLORS}", stroke_dasharray="1 4")
        return element("g", line, _ring(17, 8, look))
    line = element("path", d="M2 8H32", class_=f"line s{look.color % COLORS}", **_dash(look.dash))
    return element("g", line, draw_mark(17, 8, look), class_="faint" if look.faint else "strong")


def _labels(facet: Facet, plotted: Sequence[PlottedRow], y: LinearScale) -> list[str]:
    """The names of the lines, at the heights of their last points."""
    ends = [y(series.points[-1][1].mean) for series in plotted]
    heights = spread_out(ends, LABEL_HEIGHT, LABEL_HEIGHT / 2 + 1, HEIGHT - BOTTOM)
    labels = []
    for series, height in zip(plotted, heights, strict=True):
        name = facet.name(series.row)
        short = name if len(name) <= LABEL_LETTERS else f"{name[: LABEL_LETTERS - 1]}…"
        place: dict[str, object] = {"x": WIDTH - RIGHT + 6, "y": height + 4, "data_series": series.look.series}
        place["class_"] = f"label f{series.look.color % COLORS}"
        labels.append(element("text", element("title", escape_text(name)), escape_text(short), **place))
    return labels


def _frame(shots: Sequence[int], x: LinearScale, y: LinearScale, measure: str) -> str:
    elements = []
    for value in ticks(y.low, y.high):
        elements.append(element("path", d=f"M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}", class_="grid"))
        elements.append(
            element(
                "text",
                escape_text(format_share(value, 2)),
                x=LEFT - 8,
                y=y(value) + 4,
                text_anchor="end",
                class_="tick",
            )
        )
    for k in shots:
        elements.append(
            element("text", escape_text(k), x=x(math.log2(1 + k)), y=HEIGHT - 22, text_anchor="middle", class_="tick")
        )
    elements.append(
        element(
            "text",
            "demonstrations (shots)",
            x=(LEFT + WIDTH - RIGHT) / 2,
            y=HEIGHT - 5,
            text_anchor="middle",
            class_="tick",
        )
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = {"transform": f"translate(14 {middle:g}) rotate(-90)", "text_anchor": "middle", "class_": "tick"}
    elements.append(element("text", escape_text(measure), **turned))
    return "".join(elements)


def _line(series: PlottedRow, x: LinearScale, y: LinearScale, shift: float, table: TaskTable) -> str:
    color = series.look.color % COLORS
    elements, path = [], []
    for shots, cell in series.points:
        at = x(math.log2(1 + shots)) + shift
        path.append(f"{at:.1f} {y(cell.mean):.1f}")
        elements.append(element("path", d=f"M{at:.1f} {y(cell.low):.1f}V{y(cell.high):.1f}", class_=f"bar s{color}"))
        words = (
            f"{series.row.name}, {format_count(shots, 'shot')}: {format_share(cell.mean)} [{format_share(cell.low)}, "
            f"{format_share(cell.high)}], {format_count(table.queries, 'query', 'queries')}"
        )
        elements.append(element("g", element("title", escape_text(words)), draw_mark(at, y(cell.mean), series.look)))
    line = element("path", d="M" + "L".join(path), class_=f"line s{color}", **_dash(series.look.dash))
    look = "faint" if series.look.faint else "strong"
    return element("g", line, *elements, class_=look, data_series=series.look.series)


def _dotted(series: PlottedRow, x: LinearScale, y: LinearScale) -> str:
    places = [(x(math.log2(1 + k)), y(estimate.mean)) for k, estimate in series.points]
    path = "L".join(f"{at:.1f} {height:.1f}" for at, height in places)
    words = element(
        "title",
        escape_text(f"{series.row.name}: " + ", ".join(f"{k}: {format_share(e.mean)}" for k, e in series.points)),
    )
    line = element("path", d="M" + path, class_=f"vote s{series.look.color % COLORS}", stroke_dasharray="1 4")
    rings = (_ring(at, height, series.look) for at, height in places)
    return element("g", words, line, *rings, data_series=series.look.series)


def _ring(x: float, y: float, how: LineStyle) -> str:
    """A ring at a point of a dotted line, which is visible if the line has no other point."""
    return element("circle", cx=round(x, 1), cy=round(y, 1), r=3.5, class_=f"vote s{how.color % COLORS}")


def draw_mark(x: float, y: float, how: LineStyle) -> str:
    """The mark of a line's points at a place."""
    look = f"f{how.color % COLORS}"
    shape = MARKS[how.dash % len(MARKS)]
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=4, class_=look)
    if shape == "square":
        return element("rect", x=x - 3.6, y=y - 3.6, width=7.2, height=7.2, class_=look)
    if shape == "triangle":
        return element("path", d=f"M{x:.1f} {y - 5:.1f}l4.6 8h-9.2z", class_=look)
    return element("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z", class_=look)


def _dash(dash: int) -> dict[str, str]:
    pattern = DASHES[dash % len(DASHES)]
    return {"stroke_dasharray": pattern} if pattern else {}
