"""A score table for a paper: an arm per cell, as booktabs LaTeX, Markdown, HTML or CSV.

A cell is `.865 [.83, .90]`: the mean and both ends of its interval. It is bold if the comparison of `icl compare` says
that the arm is better than its reference. The numbers are those of tables/scores.csv and tables/differences.csv.
"""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.config.keys import AXES
from experiments.report import statistical_tests
from experiments.report.tables import control_labels, differences_or_reason, score_frame
from experiments.results.column_effects import ColumnEffects, column_effects, interactions_frame, macro_averages
from experiments.results.data_columns import split_view
from experiments.results.run_view import RunView
from experiments.stats.arms import axis_values, describe_arm, varying_axes
from experiments.stats.compare import verdicts
from experiments.stats.formatting import (
    few_units_note,
    format_count,
    format_p,
    format_share,
    join_words,
    markdown_text,
)
from experiments.stats.significance import SIGNIFICANCE_LEVEL
from icl.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_COLUMNS = 50
CONTROL_MARK = "†"
EMPTY = "–"
LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"}
    | {"†": "$^{\\dagger}$", "±": "$\\pm$", "≤": "$\\leq$", "×": "$\\times$", "–": "--", "−": "$-$", "→": "$\\to$"}
    | {"\n": " ", "\t": " ", "`": "\\textasciigrave{}"}
)


@dataclass(frozen=True)
class ScoreCell:
    """A score as text, or '–' if the run has no such arm."""

    text: str = EMPTY
    bold: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table of scores as texts.

    Attributes:
        axes: The axes of the rows, which are the headings of the first columns.
        columns: The headings of the other columns.
        rows: The labels of each row, and its cells.
        notes: The sentences of the footnote.
    """

    axes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[ScoreCell, ...]], ...]
    notes: tuple[str, ...]


def paper_table(view: RunView, rows: Sequence[str] = (), columns: str = "", by: Sequence[str] = ()) -> PaperTable:
    """Arranges the scores of a run. No cell is an average over arms: axes that vary and are not named are rows too.

    Args:
        view: The run.
        rows: The first axes of the rows; by default the task and the axes of the report.
        columns: The axis of the columns; by default the shots, or the first column of the data in `by`.
        by: Columns of the data, which are further axes. If a single one is the axis of the columns, the columns `all`
            and `macro` follow: the score on all samples, and the mean over the values.

    Raises:
        ConfigError: The run has no such axis or column, an axis is used twice, or there are more than MAX_COLUMNS
            columns.
    """
    if by:
        return _by_column(view, rows, columns, by)
    row_axes, column = _layout(view, rows, columns)
    compared = differences_or_reason(view)
    frame = _with_verdicts(view, compared[0])
    marked = control_labels(view)
    values = axis_values(view.scores, column)
    orders = {axis: {value: i for i, value in enumerate(axis_values(view.scores, axis))} for axis in row_axes}
    cells: dict[tuple[Any, ...], dict[Any, ScoreCell]] = {}
    for row in _records(frame):
        cells.setdefault(tuple(row[axis] for axis in row_axes), {})[row[column]] = _cell(row)
    keys = sorted(cells, key=lambda key: [orders[axis][value] for axis, value in zip(row_axes, key, strict=True)])
    return PaperTable(
        row_axes,
        tuple(_heading(column, value, marked) for value in values),
        tuple(
            (
                tuple(_label(axis, value, marked) for axis, value in zip(row_axes, key, strict=True)),
                tuple(cells[key].get(value, ScoreCell()) for value in values),
            )
            for key in keys
        ),
        tuple(_notes(view, frame, *compared)),
    )


def _by_column(view: RunView, rows: Sequence[str], columns: str, by: Sequence[str]) -> PaperTable:
    split = split_view(view, by)
    usual = "" if split.scores[by[0]].nunique() > MAX_COLUMNS else next((axis for axis in by if axis not in rows), "")
    table = paper_table(split, rows, columns or usual)
    if len(by) > 1 or by[0] in table.axes:
        return table
    effects = column_effects(view, by[0])
    whole = _with_verdicts(view, differences_or_reason(view)[0])
    totals = [(row, _cell(row)) for row in _records(whole)]
    averages = [({**arm, **vars(one), "verdict": None}, one) for arm, one in macro_averages(effects)]
    marked = control_labels(view)
    extra: dict[tuple[str, ...], tuple[ScoreCell, ScoreCell]] = {}
    for row, cell in totals:
        labels = tuple(_label(axis, row[axis], marked) for axis in table.axes)
        average = next((one for arm, one in averages if all(arm[axis] == row[axis] for axis in view.axes)), None)
        extra[labels] = cell, ScoreCell() if average is None else _cell({**vars(average), "verdict": None})
    notes = [f"macro: the mean over the values of {by[0]}, not tested.", *_interaction_notes(effects)]
    if whole["p_corrected"].notna().any():
        notes.insert(0, "all: every sample, with p corrected over the comparisons of this column.")
    return replace(
        table,
        columns=(*table.columns, "all", "macro"),
        rows=tuple((labels, (*cells, *extra[labels])) for labels, cells in table.rows),
        notes=(*table.notes, *notes),
    )


def _interaction_notes(effects: ColumnEffects) -> Iterator[str]:
    """Which differences depend on the column."""
    if effects.note:
        yield effects.note[0].upper() + effects.note[1:]
    frame = interactions_frame(effects)
    tested = frame[frame["p_corrected"].notna()]
    if not len(tested):
        return
    axes = varying_axes(frame, [axis for axis in AXES if axis in frame])
    arms = tested.drop_duplicates(axes) if axes else tested[:1]
    family = f", Holm over {format_count(len(arms), 'arm')}" if len(arms) > 1 else ""
    named = [
        f"{describe_arm(row, axes) or 'the arm'} ({format_p(row['p_corrected'])})"
        for row in _records(arms)
        if row["p_corrected"] <= SIGNIFICANCE_LEVEL
    ]
    test = f"test of equal differences in all values{family}"
    if named:
        yield f"The difference from the reference depends on {effects.name} for {join_words(named)}: {test}."
    else:
        yield f"No difference from the reference depends detectably on {effects.name}: {test}."


def _records(frame: "DataFrame") -> list[dict[str, Any]]:
    return [{str(name): value for name, value in record.items()} for record in frame.to_dict("records")]


def numbers_frame(view: RunView) -> "DataFrame":
    """The numbers of the table: the columns of tables/scores.csv, then those of the comparison of each arm.

    Returns:
        One row per arm. `reference`, `difference`, `p_corrected` and `verdict` (better, worse, differs, open) are those
        of tables/differences.csv, empty for an arm that is not compared. `control` says whether the arm is a control.
    """
    return _with_verdicts(view, differences_or_reason(view)[0])


def latex_text(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    escaped = text.translate(LATEX)
    # after the line break of a table, [ and * would be arguments of the break
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def to_latex(table: PaperTable) -> str:
    """The table as a `tabular` of the package booktabs, with its footnote below."""
    frame = _frame(table, latex_text, "\\textbf{{{}}}")
    layout = "l" * len(table.axes) + "c" * len(table.columns)
    tabular = frame.style.hide(axis="index").to_latex(hrules=True, column_format=layout)
    notes = latex_text(" ".join(table.notes))
    return f"% needs \\usepackage{{booktabs}}\n{tabular}\n\\smallskip\n{{\\footnotesize {notes}\\par}}\n"


def to_markdown(table: PaperTable) -> str:
    """The table in Markdown, with its footnote below."""
    frame = _frame(table, markdown_text, "**{}**")
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n{markdown_text(' '.join(table.notes))}\n"


def to_html(table: PaperTable) -> str:
    """The table as an HTML element without style, with its footnote as a paragraph."""
    frame = _frame(table, html.escape, "<strong>{}</strong>")
    return f"{frame.to_html(index=False, escape=False, border=0)}\n<p>{html.escape(' '.join(table.notes))}</p>\n"


FORMATS: Mapping[str, Callable[[PaperTable], str]] = {"latex": to_latex, "markdown": to_markdown, "html": to_html}


def _layout(view: RunView, rows: Sequence[str], columns: str) -> tuple[tuple[str, ...], str]:
    """The axes of rows, and the axis of columns."""
    varying = varying_axes(view.scores, view.axes)
    for option, axis in [*(("--rows", axis) for axis in rows), *([("--columns", columns)] if columns else [])]:
        if axis not in view.axes:
            there = ", ".join(varying) or "none"
            raise ConfigError(
                f"{option}: the run has no axis '{axis}'.{did_you_mean(axis, view.axes)} Axes that vary: {there}."
            )
    if columns in rows:
        raise ConfigError(f"--columns: '{columns}' is an axis of the rows (--rows). Use each axis once.")
    usual = [axis for axis in ("shots", "task", *reversed(view.row_axes)) if axis not in rows]
    column = columns or next((axis for axis in usual if axis in varying), usual[0])
    if (count := view.scores[column].nunique()) > MAX_COLUMNS:
        raise ConfigError(
            f"--columns: '{column}' has {count:,} values, and a table has at most {MAX_COLUMNS} columns. "
            f"Use it for the rows: --rows {column}."
        )
    others = [axis for axis in ("task", *view.row_axes, *varying) if axis in varying]
    labels = tuple(dict.fromkeys(axis for axis in (*rows, *others) if axis != column))
    return labels or (next(axis for axis in ("decoding", *view.axes) if axis != column),), column


def _with_verdicts(view: RunView, differences: "DataFrame | None") -> "DataFrame":
    import pandas as pd

    frame = score_frame(view)
    frame["control"] = frame["decoding"].isin(control_labels(view)) if "decoding" in frame else False
    compared = ["reference", "difference", "p_corrected", "verdict"]
    if differences is None:
        return frame.assign(**dict.fromkeys(compared, None))
    judged = differences.assign(verdict=pd.Series(verdicts(differences), index=differences.index, dtype=object))
    return frame.merge(judged[[*view.axes, *compared]], on=list(view.axes), how="left")


def _cell(row: Mapping[str, Any]) -> ScoreCell:
    if row["mean"] != row["mean"]:  # NaN: no sample has a score
        return ScoreCell()
    low, high = format_share(row["low"], 2), format_share(row["high"], 2)
    return ScoreCell(f"{format_share(row['mean'])} [{low}, {high}]", row["verdict"] == "better")


def _label(axis: str, value: Any, marked: set[str]) -> str:
    return f"{value}{CONTROL_MARK}" if axis == "decoding" and value in marked else str(value)


def _heading(axis: str, value: Any, marked: set[str]) -> str:
    """'4 shots', 'max_thinking_tokens 512', 'vcd'."""
    if axis == "shots":
        return format_count(int(value), "shot")
    return f"{axis} {value}" if isinstance(value, int | float) else _label(axis, value, marked)


def _frame(table: PaperTable, escape: Callable[[str], str], bold: str) -> "DataFrame":
    """The texts in one notation. A label that repeats those above it is blank."""
    import pandas as pd

    above: tuple[str, ...] = ()
    lines = []
    for labels, cells in table.rows:
        own = [
            "" if i < len(labels) - 1 and labels[: i + 1] == above[: i + 1] else escape(labels[i])
            for i in range(len(labels))
        ]
        lines.append([*own, *(bold.format(escape(cell.text)) if cell.bold else escape(cell.text) for cell in cells)])
        above = labels
    return pd.DataFrame(lines, columns=[escape(name) for name in (*table.axes, *table.columns)])


def _notes(view: RunView, frame: "DataFrame", differences: "DataFrame | None", reason: str) -> list[str]:
    fixed = [f"{axis} {value}" for axis, value in view.fixed.items() if value != "none"]
    notes = [f"{view.measure}: mean [95 % interval]; n = {_sizes(frame)}."]
    if differences is not None:
        test = statistical_tests.describe_tests(differences["test"], statistical_tests.SHORT)
        family = format_count(int(differences["family"].max()), "comparison")
        corrected = f"Holm over {family}" if view.correct == "holm" else f"{family}, p not corrected"
        level = format_share(SIGNIFICANCE_LEVEL, 2)
        against = describe_arm(view.to) or "the reference"
        direction = "" if view.better != "neither" else " No direction of this metric is better, so nothing is bold."
        notes.append(f"Bold: better than {against}, p ≤ {level} ({test}; {corrected}).{direction}")
    elif reason:
        notes.append(f"No comparison: {reason}")
    if frame["control"].any():
        notes.append(f"{CONTROL_MARK} control of a strategy.")
    if missing := int(frame["missing"].sum()):
        notes.append(f"Not counted: {format_count(missing, 'sample')} without a score.")
    if few := few_units_note(frame["clusters"]):
        notes.append(f"{few[0].upper()}{few[1:]}.")
    if view.unfinished:
        notes.append(view.unfinished)
    return [*notes, *([f"All arms: {', '.join(fixed)}."] if fixed else [])]


def _sizes(frame: "DataFrame") -> str:
    """'200 queries × 3 seeds', '150 to 200 queries'."""
    texts = []
    for column, one, several in (("queries", "query", "queries"), ("seeds", "seed", "seeds")):
        low, high = int(frame[column].min()), int(frame[column].max())
        text = format_count(high, one, several)
        texts.append(text if low == high else f"{low:,} to {text}")
    return texts[0] if texts[1] == "1 seed" else " × ".join(texts)
