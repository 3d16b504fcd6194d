"""Figures (Altair): SVG for a page, files for a paper, charts for a notebook.

An SVG of vl-convert has attributes only: no style, script or link. So it stands in the page under its content policy,
and its colors are variables of the page: one SVG is light and dark. Each mark has an `aria-label`, which the script of
the page shows as a tooltip, and which screen readers read. Lines differ in color, dash and mark, so that they differ on
paper without color too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.store.store import report_write_errors, write_bytes
from icl import ConfigError, DataFrame, alt

FORMATS = ("pdf", "png", "svg")
COLORS = ("#0b6cb8", "#c8500a", "#00805c", "#a8478c", "#8a6a00", "#3d4fc4", "#5f6b00", "#666666")
"""The colors on paper. Those of a page are in `templates/report.css`."""
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (10, 4), (4, 2, 1, 2))
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
PATHS = (
    "M13,8a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M13.5,4.5h7v7h-7z",
    "M17,3.5l4.5,8h-9z",
    "M17,3l4.5,5l-4.5,5l-4.5,-5z",
    "M15.5,3.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M17,12.5l4.5,-8h-9z",
)
"""The marks in the key of a page, which is 34 by 16 pixels."""
FAINT_DASH, FAINT_MARK = (1, 4), "stroke"
RANGE = ("mean_low", "mean_high")
"""The columns with the ends of a mean with unread outputs: a bar between them stands where the mean is NaN."""
INCH = 72
"""The points of an inch. A pixel of a chart is a point of the PDF."""
ASPECT = 0.65
SMALLEST = 1.5
"""The width of a figure in inches below which its axes have no room."""


@dataclass(frozen=True)
class Line:
    """How a line looks: the numbers of its color and of its dash and mark; faint for what is no arm, such as a vote."""

    color: int = 0
    dash: int = 0
    faint: bool = False

    @property
    def dashes(self) -> tuple[int, ...]:
        return FAINT_DASH if self.faint else DASHES[self.dash % len(DASHES)]

    @property
    def mark(self) -> str:
        return FAINT_MARK if self.faint else MARKS[self.dash % len(MARKS)]

    @property
    def path(self) -> str:
        """The mark in the key of a page."""
        return "" if self.faint else PATHS[self.dash % len(MARKS)]


@dataclass(frozen=True, eq=False)
class Figure:
    """A chart for each part of a section; the same line looks the same in all of them.

    Attributes:
        panels: The title of each panel, and its Altair chart, which has no theme.
        lines: The looks of each line, by its name.
        columns: The most panels side by side on paper.
        images: The number of panels with images. They come first and have no lines, so the key stands behind them.
    """

    panels: Mapping[str, Any]
    lines: Mapping[str, Line]
    columns: int = 3
    images: int = 0

    def page(self) -> list[tuple[str, str]]:
        """(title, SVG) of each panel. The page writes titles and key itself."""
        colors = [f"var(--c{i})" for i in range(len(COLORS))]
        theme = {"ink": "var(--ink)", "soft": "var(--soft)", "rule": "var(--rule)"}
        return [(title, _svg(_themed(chart, colors, theme, legend=False))) for title, chart in self.panels.items()]

    def paper(self, width: float = 0) -> Any:
        """All panels as one chart.

        Args:
            width: The width of the figure in inches, such as 3.3 for a column; by default panels side by side.

        Raises:
            ConfigError: The width has no room for axes.
        """
        if width and width < SMALLEST:
            raise ConfigError(f"--width: {width:g} inches have no room for a figure. The smallest is {SMALLEST:g}.")
        columns = max(1, min(len(self.panels), self.columns, int(width / 2.2) if width else 3))
        panel = width * INCH / columns - 60
        panels = []
        for title, chart in self.panels.items():
            size = {"width": panel, "height": panel * ASPECT} if width else {}
            if not isinstance(chart.height, int | float):  # so much for each row
                size.pop("height", None)
            panels.append(chart.properties(title=title, **size))
        whole = alt.concat(*panels, columns=columns, spacing=15)
        return whole.resolve_legend(color="independent", shape="independent") if self.images else whole

    def spec(self, width: float = 0) -> dict[str, Any]:
        """The figure for a paper as a Vega-Lite description: with its key, and exactly as wide as asked for."""
        theme = {"ink": "#111111", "soft": "#444444", "rule": "#dddddd"}
        longest = max((len(name) for name in self.lines), default=1)
        columns = max(1, int((width * INCH or 640) / (longest * 5 + 30)))
        made = _themed(self.paper(width), COLORS, theme, legend=len(self.lines) > 1, columns=columns)
        for _ in range(3 if width else 0):  # the labels of the axes take what they need
            surplus = _width(_svg(made)) - width * INCH
            row = min(len(made["concat"]), made["columns"])
            if abs(surplus) < 1:
                break
            for panel in made["concat"]:
                panel["width"] = max(20, panel["width"] - surplus / row)
        return made

    def write(self, stem: Path, formats: Sequence[str] = FORMATS, width: float = 0) -> list[Path]:
        """Writes STEM.pdf, STEM.png and STEM.svg. width: in inches. Raises StoreError."""
        import vl_convert

        spec = self.spec(width)
        make = {
            "pdf": lambda: vl_convert.vegalite_to_pdf(spec),
            "png": lambda: vl_convert.vegalite_to_png(spec, scale=4),
            "svg": lambda: vl_convert.vegalite_to_svg(spec).encode(),
        }
        with report_write_errors(stem.parent):
            stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
        for kind, path in zip(formats, paths, strict=True):
            write_bytes(path, make[kind]())
        return paths

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """How Jupyter shows it."""
        return alt.Chart.from_dict(self.spec())._repr_mimebundle_(include, exclude)


def read_width(text: str) -> float:
    """Inches of '3.3in', '84mm' or '8.4cm'. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(in|mm|cm)", text.strip())
    if match is None:
        raise ConfigError(f"--width: '{text}' is no width. Examples: 3.3in, 84mm, 8.4cm.")
    return float(match[1]) / {"in": 1.0, "mm": 25.4, "cm": 2.54}[match[2]]


def check_figure_file(path: Path) -> None:
    """Raises ConfigError if the suffix of a figure is no format."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise ConfigError(f"--figure: {path} must end in {', '.join(f'.{one}' for one in FORMATS)}.")


def encode_lines(lines: Mapping[str, Line]) -> dict[str, Any]:
    """The color and the mark of the column `line`. They share a domain, so that panels agree and the key is one."""
    names = list(lines)
    colors = [f"@{one.color % len(COLORS)}" for one in lines.values()]
    marks = [one.mark for one in lines.values()]
    return {
        "color": alt.Color("line:N", scale=alt.Scale(domain=names, range=colors)),
        "shape": alt.Shape("line:N", scale=alt.Scale(domain=names, range=marks)),
    }


def dashed_lines(data: DataFrame, lines: Mapping[str, Line], width: float, **encodings: Any) -> list[Any]:
    """A layer for each dash: an encoded dash would draw the marks of the key dashed, too."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, one in lines.items():
        groups.setdefault(one.dashes, []).append(name)
    parts = {dashes: data[data["line"].isin(names)] for dashes, names in groups.items()}
    return [
        alt.Chart(rows)
        .mark_line(strokeWidth=width, strokeDash=list(dashes))
        .encode(**encodings, color=encode_lines(lines)["color"])
        for dashes, rows in parts.items()
        if len(rows)
    ]


def dot_chart(data: DataFrame, lines: Mapping[str, Line], x: str, y: str, whole: bool = False) -> Any:
    """A row per value of `row` with a dot and its interval for each line.

    Args:
        data: The columns row, line, mean, low, high and says (the label of the dot), with unread outputs also RANGE.
        lines: The looks of the lines.
        x: The title of the axis of the means.
        y: The title of the rows.
        whole: Whether the axis is from 0 to 1.
    """
    order, several = list(dict.fromkeys(data["row"])), len(lines) > 1
    room = min(250, 7 * max(map(len, map(str, order)), default=0))  # pixels: letters of browsers are wider than Vega's
    rows = alt.Y("row:N", sort=order, title=y or None, axis=alt.Axis(labelLimit=250, minExtent=room))
    offset: dict[str, Any] = (
        {"yOffset": alt.YOffset("line:N", sort=list(lines), scale=alt.Scale(paddingOuter=0.3))} if several else {}
    )
    base = alt.Chart(data).encode(y=rows, description="says:N", **offset)
    scale = alt.Scale(domain=[0, 1]) if whole else alt.Scale(zero=False)
    means = alt.X("mean:Q", title=x, scale=scale)
    intervals = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=x, scale=scale), x2="high:Q")
    color = encode_lines(lines)["color"]
    layers = [
        intervals.encode(color=color),
        *(
            part.mark_bar(filled=False, strokeWidth=1.5, height=6).encode(
                x=alt.X("mean_low:Q", title=x, scale=scale), x2="mean_high:Q", color=color
            )
            for part in _ranges(base)
        ),
        base.mark_point(filled=True, size=40, opacity=1).encode(x=means, **encode_lines(lines)),
    ]
    return alt.layer(*layers).properties(width=300, height=alt.Step(9 if several else 18))


def curve_chart(data: DataFrame, lines: Mapping[str, Line], y: str, whole: bool = False) -> Any:
    """Lines against the number of shots, on a logarithmic axis, with intervals side by side.

    Args:
        data: The columns shots, line, mean, low, high and says (the label of the mark), with unread outputs also RANGE.
        lines: The looks of the lines.
        y: The title of the axis of the means.
        whole: Whether the axis is from 0 to 1.
    """
    places = {name: 2 ** (0.05 * (i - (len(lines) - 1) / 2)) for i, name in enumerate(lines)}
    data = data.assign(place=(1.0 + data["shots"]) * data["line"].map(places))
    ticks = alt.Axis(
        values=sorted(1.0 + k for k in data["shots"].unique()), labelExpr="format(datum.value - 1, 'd')", grid=False
    )
    logarithmic = alt.Scale(type="log", base=2, nice=False, padding=24)
    x = alt.X("place:Q", title="demonstrations (shots)", scale=logarithmic, axis=ticks)
    scale = alt.Scale(domain=[0, 1]) if whole else alt.Scale(zero=False)
    base = alt.Chart(data).encode(x=x, description="says:N")
    low, mean = (alt.Y(f"{name}:Q", title=y, scale=scale) for name in ("low", "mean"))
    looks = encode_lines(lines)
    layers = [
        base.mark_rule(strokeWidth=1.5).encode(y=low, y2="high:Q", color=looks["color"]),
        *(
            part.mark_bar(filled=False, strokeWidth=1.5, width=6).encode(
                y=alt.Y("mean_low:Q", title=y, scale=scale), y2="mean_high:Q", color=looks["color"]
            )
            for part in _ranges(base)
        ),
        *dashed_lines(data, lines, 2, x=x, y=mean, description="says:N"),
        base.mark_point(filled=True, size=45, opacity=1).encode(y="mean:Q", **looks),
    ]
    return alt.layer(*layers).properties(width=440, height=215)


def _ranges(base: Any) -> list[Any]:
    """The chart of the rows whose mean is a range, if there are any."""
    rows = base.data[base.data["mean"].isna()] if set(RANGE) <= set(base.data) else base.data[:0]
    return [base.properties(data=rows)] if len(rows) else []


def _themed(
    chart: Any, colors: Sequence[str], theme: Mapping[str, str], *, legend: bool, columns: int = 0
) -> dict[str, Any]:
    """The chart's description with the colors of a page, or of paper, which has columns of the key."""
    soft, paper = theme["soft"], bool(columns)
    axis = {"labelColor": soft, "titleColor": soft, "gridColor": theme["rule"], "domainColor": soft, "tickColor": soft}
    size = 9 if paper else 12
    key = {"labelColor": theme["ink"], "labelFontSize": size, "title": None, "orient": "top", "columns": columns}
    config = {
        "background": "#ffffff" if paper else None,
        "view": {"stroke": None},
        "axis": {**axis, "titleFontWeight": "normal", "labelFontSize": size, "titleFontSize": size},
        "text": {"color": theme["ink"]},
        "legend": {**key, "disable": not legend, "symbolSize": 60, "symbolStrokeWidth": 2, "labelLimit": 400},
        "title": {"color": theme["ink"], "fontSize": size + 1, "anchor": "start"},
        "font": "Helvetica, Arial, sans-serif" if paper else "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
    }
    text = json.dumps({**chart.to_dict(validate=False), "config": config})
    return dict(json.loads(re.sub(r'"@(\d+)"', lambda match: json.dumps(colors[int(match[1])]), text)))


def _svg(spec: Mapping[str, Any]) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(dict(spec)))


def _width(svg: str) -> float:
    match = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
    assert match is not None
    return float(match[1])
