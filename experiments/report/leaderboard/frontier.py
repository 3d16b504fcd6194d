"""Hallucination against recall: a section per task of captions (`experiments.analyses.caption_frontier`)."""

from typing import TYPE_CHECKING

from experiments.analyses.caption_frontier import CaptionGroup, caption_groups
from experiments.report.figure import Figure, Line, encode_lines
from experiments.report.section import Column, Section
from experiments.results.run_view import RunView
from experiments.stats.arms import describe_arm
from icl.errors import ICLError

if TYPE_CHECKING:
    from pandas import DataFrame

NOTE = (
    "CHAIR_I is the share of object mentions that are not in the image; lower is better. Recall is the share of the "
    "image's objects that captions name. Dashed: the lowest CHAIR_I of trivial baselines, the reference's captions "
    "cut after k words or without a random part of their mentions. A method hallucinates less only if it is below "
    "that line. At equal length: CHAIR_I minus the reference's, both captions of a pair cut to the shorter one's "
    "words. Intervals are not corrected, and no verdict rests on them. Small points: controls."
)
COLUMNS = (
    Column("decoding", "method"),
    Column("length", "words", "count"),
    Column("recall", kind="share"),
    Column("chair", "CHAIR_I", "share"),
    Column("at_length", "at equal length", "signed"),
    Column("low", "95 % interval", "interval"),
    Column("beyond", "beyond the frontier", "signed"),
    Column("beyond_low", "95 % interval", "interval", ("beyond_low", "beyond_high")),
)


def frontier_tables(view: RunView) -> tuple[list[Section], str]:
    """The sections of a run, and the reason if there are none.

    A run without CHAIR has neither. The task is built again, because samples do not store the objects of images.
    """
    if not any(name.startswith("chair_") and view.scores[name].notna().any() for name in view.metrics):
        return [], ""
    try:
        groups = caption_groups(view)
    except ICLError as error:
        return [], f"{view.name}: no frontier. {error}"
    return [_section(view, group, number) for number, group in enumerate(groups)], ""


def _section(view: RunView, group: CaptionGroup, number: int) -> Section:
    import pandas as pd

    frame = pd.DataFrame(group.rows)
    frame["control"] = frame["decoding"].isin(view.control_names)
    frame = frame.sort_values("control", kind="stable", key=lambda own: own * 2 + (frame["decoding"] != view.reference))
    setting = {key: value for key, value in group.rows[0].items() if key in view.axes and key != "decoding"}
    return Section(
        f"frontier-{view.name}-{number}",
        f"Hallucination and recall · {view.name}: {describe_arm(setting)}",
        frame=frame,
        columns=COLUMNS, faint="control", notes=[NOTE], draw=lambda rows: draw_frontier(rows, group.curve()),
    )  # fmt: skip


def draw_frontier(rows: "DataFrame", curve: "list[tuple[float, float]]") -> Figure:
    """CHAIR_I against recall. Controls are small gray points."""
    import altair as alt
    import pandas as pd

    data = rows[["decoding", "control", "recall", "chair"]].dropna().rename(columns={"decoding": "line"})
    data["says"] = [
        f"{name}: recall {recall:.3f}, CHAIR_I {chair:.3f}"
        for name, recall, chair in data[["line", "recall", "chair"]].itertuples(index=False)
    ]
    lines = {name: Line(number, number) for number, name in enumerate(data["line"][~data["control"]])}
    x = alt.X("recall:Q", title="recall of objects", scale=alt.Scale(zero=False))
    y = alt.Y("chair:Q", title="CHAIR_I", scale=alt.Scale(zero=False))
    frontier = alt.Chart(pd.DataFrame(curve, columns=["recall", "chair"])).mark_line(strokeDash=[4, 3], color="gray")
    points = alt.Chart(data[~data["control"]]).mark_point(filled=True, size=60)
    small = alt.Chart(data[data["control"]]).mark_point(size=12, color="gray")
    layers = [frontier.encode(x=x, y=y)] if curve else []
    layers += [small.encode(x=x, y=y, description="says:N")] if data["control"].any() else []
    layers.append(points.encode(x=x, y=y, description="says:N", **encode_lines(lines)))
    return Figure({"": alt.layer(*layers).properties(width=330, height=215)}, lines)
