"""The figure of an analysis in the page: an SVG per panel, with common scales and the styles of the page."""

import math
from collections.abc import Iterator, Sequence

from experiments.report.analysis_panels import AnalysisPanel
from experiments.report.figures import COLORS, LineStyle, draw_key_sample, draw_mark
from experiments.report.svg import LinearScale, element, escape_text, padded_range, ticks
from experiments.stats.formatting import format_share

WIDTH, TOP, BOTTOM, RIGHT = 460, 6, 40, 16
LETTER, LETTERS = 6.4, 26
"""The width of a letter of a label in pixels, and the largest number of letters."""
STEP, GAP = 10, 8
"""The height of a point in pixels, and of the gap between rows."""


def draw_analysis_panels(panels: Sequence[AnalysisPanel], measure: str) -> list[tuple[str, str]]:
    """(title, SVG without a style sheet) of each panel. measure: the quantity and its unit, the title of the axis."""
    values = [
        value
        for panel in panels
        for one in panel.measures
        for value in (*one.means, *one.lows, *one.highs)
        if math.isfinite(value)
    ]
    limits = padded_range([0.0, *values], 0.05)
    gutter = 18 + LETTER * min(LETTERS, max((len(row) for panel in panels for row in panel.rows), default=1))
    x = LinearScale(*limits, gutter, WIDTH - RIGHT)
    return [(panel.title, _draw_panel(panel, x, measure)) for panel in panels]


def analysis_key(panels: Sequence[AnalysisPanel]) -> list[tuple[str, str]]:
    """(sample of the mark, name) of each measure; empty for a single one."""
    names = list(dict.fromkeys(one.name for panel in panels for one in panel.measures))
    return [(draw_key_sample(_style(i), False), name) for i, name in enumerate(names)] if len(names) > 1 else []


def _style(number: int) -> LineStyle:
    return LineStyle(number, number)


def _draw_panel(panel: AnalysisPanel, x: LinearScale, measure: str) -> str:
    height = _row_height(panel)
    bottom = TOP + height * len(panel.rows)
    inside = [_frame(x, bottom, measure)]
    for place, label in enumerate(panel.rows):
        short = label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
        text = (element("title", escape_text(label)), escape_text(short))
        middle = TOP + height * (place + 0.5) + 4
        if place:
            inside.append(element("path", d=f"M{x.start:.1f} {TOP + height * place:g}H{WIDTH - RIGHT}", class_="grid"))
        inside.append(element("text", *text, x=x.start - 8, y=middle, text_anchor="end", class_="tick"))
    inside += [point for number in range(len(panel.measures)) for point in _points(panel, number, x)]
    box = f"0 0 {WIDTH} {bottom + BOTTOM:g}"
    aria = f"{measure}, {panel.title}" if panel.title else measure
    return element("svg", *inside, viewBox=box, role="img", aria_label=aria, class_="panel")


def _row_height(panel: AnalysisPanel) -> float:
    return GAP + STEP * max(1, len(panel.measures))


def _points(panel: AnalysisPanel, number: int, x: LinearScale) -> Iterator[str]:
    """The points of a measure with their intervals. A row without a value has none."""
    one, style = panel.measures[number], _style(number)
    for place, point in enumerate(zip(one.means, one.lows, one.highs, strict=True)):
        if not all(map(math.isfinite, point)):
            continue
        mean, low, high = point
        y = TOP + _row_height(panel) * place + GAP / 2 + STEP * (number + 0.5)
        words = f"{panel.rows[place]}, {one.name}: {format_share(mean)}"
        words += f" [{format_share(low)}, {format_share(high)}]" if low != high else ""
        bar = element("path", d=f"M{x(low):.1f} {y:.1f}H{x(high):.1f}", class_=f"bar s{style.color % COLORS}")
        yield element("g", element("title", escape_text(words)), bar, draw_mark(x(mean), y, style))


def _frame(x: LinearScale, bottom: float, measure: str) -> str:
    """Vertical lines at round values, 0 among them, and the title of the axis."""
    lines = []
    for value in ticks(x.low, x.high):
        look = "grid" if value else "axis"
        lines.append(element("path", d=f"M{x(value):.1f} {TOP}V{bottom:.1f}", class_=look))
        text = f"{value:g}".replace("-", "−")
        lines.append(element("text", text, x=x(value), y=bottom + 15, text_anchor="middle", class_="tick"))
    middle = (x.start + x.end) / 2
    title = element("text", escape_text(measure), x=middle, y=bottom + 33, text_anchor="middle", class_="tick")
    return "".join((*lines, title))
