"""Hallucination against recall: a figure and a table per task of captions (`experiments.analyses.caption_frontier`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from experiments.analyses.caption_frontier import CaptionGroup, caption_groups
from experiments.report.figures import LineStyle, draw_mark
from experiments.report.svg import LinearScale, element, escape_text, padded_range, ticks
from experiments.results.run_view import RunView
from experiments.stats.arms import describe_arm
from experiments.stats.formatting import format_interval, format_share, format_signed
from icl.errors import ICLError

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 40
HEADS = ("words", "recall", "CHAIR_I", "at equal length", "beyond the frontier")


@dataclass(frozen=True)
class FrontierTable:
    """The captions of one task and setting.

    Attributes:
        title: The run, task and setting.
        svg: The figure.
        key: (sample of the mark, name) of each point with a name.
        rows: (label, whether it is a control, a cell for each of HEADS).
    """

    title: str
    svg: str
    key: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, bool, tuple[str, ...]], ...]

    @property
    def controls(self) -> bool:
        return any(is_control for _, is_control, _ in self.rows)


def frontier_tables(view: RunView) -> tuple[list[FrontierTable], str]:
    """The tables of a run, and why it has none.

    A run without CHAIR has neither. The task is built again, because samples do not store the objects of images.
    """
    if not any(name.startswith("chair_") and view.scores[name].notna().any() for name in view.metrics):
        return [], ""
    try:
        groups = caption_groups(view)
    except ICLError as error:
        return [], f"{view.name}: no frontier. {error}"
    return [_table(view, group) for group in groups], ""


def _table(view: RunView, group: CaptionGroup) -> FrontierTable:
    controls = view.control_names
    rows = sorted(group.rows, key=lambda row: (str(row["decoding"]) in controls, row["decoding"] != view.reference))
    named = [row for row in rows if str(row["decoding"]) not in controls]
    looks = {str(row["decoding"]): LineStyle(i, i // 8 + i) for i, row in enumerate(named)}
    setting = {key: value for key, value in rows[0].items() if key in view.axes and key != "decoding"}
    return FrontierTable(
        f"{view.name}: {describe_arm(setting)}",
        draw_frontier(rows, group.curve(), looks),
        tuple((draw_mark(8, 8, look), name) for name, look in looks.items()),
        tuple((str(row["decoding"]), str(row["decoding"]) in controls, _cells(row)) for row in rows),
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    def difference(middle: str, low: str, high: str) -> str:
        if isnan(row[middle]):
            return ""
        return f"{format_signed(row[middle])} {format_interval(row[low], row[high])}"

    return (
        f"{row['length']:.1f}",
        format_share(row["recall"]),
        format_share(row["chair"]),
        difference("at_length", "low", "high"),
        difference("beyond", "beyond_low", "beyond_high"),
    )


def draw_frontier(
    rows: Sequence[Mapping[str, Any]], curve: Sequence[tuple[float, float]], looks: Mapping[str, LineStyle]
) -> str:
    """The figure: CHAIR_I against recall. Rows without a style are controls, which are small gray points."""
    points = [
        (row, row["recall"], row["chair"]) for row in rows if not isnan(row["recall"]) and not isnan(row["chair"])
    ]
    places = [(recall, chair) for _, recall, chair in points] + list(curve) or [(0.0, 0.0), (1.0, 1.0)]
    x = LinearScale(*padded_range([recall for recall, _ in places], 0.05), LEFT, WIDTH - RIGHT)
    y = LinearScale(*padded_range([chair for _, chair in places], 0.05), HEIGHT - BOTTOM, TOP)
    parts = [_axes(x, y)]
    if curve:
        path = "L".join(f"{x(recall):.1f} {y(chair):.1f}" for recall, chair in curve)
        parts.append(element("path", d=f"M{path}", class_="line soft", stroke_dasharray="4 3"))
    for row, recall, chair in sorted(points, key=lambda point: str(point[0]["decoding"]) in looks):
        name = str(row["decoding"])
        words = element("title", escape_text(f"{name}: recall {format_share(recall)}, CHAIR_I {format_share(chair)}"))
        if look := looks.get(name):
            parts.append(element("g", words, draw_mark(x(recall), y(chair), look)))
        else:
            parts.append(element("circle", words, cx=x(recall), cy=y(chair), r=2.5, class_="soft"))
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="panel frontier", role="img",
        aria_label="CHAIR_I against recall",
    )  # fmt: skip


def _axes(x: LinearScale, y: LinearScale) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(element("path", d=f"M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}", class_="grid"))
        parts.append(_text(format_share(value, 2), x=LEFT - 6, y=y(value) + 4, text_anchor="end"))
    for value in ticks(x.low, x.high):
        parts.append(element("path", d=f"M{x(value):.1f} {HEIGHT - BOTTOM}v4", class_="grid"))
        parts.append(_text(format_share(value, 2), x=x(value), y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    parts.append(_text("recall of objects", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text("CHAIR_I", transform=f"translate(14 {middle:g}) rotate(-90)", text_anchor="middle"))
    return "".join(parts)


def _text(words: str, **attributes: object) -> str:
    return element("text", escape_text(words), class_="tick", **attributes)
