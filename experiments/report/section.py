"""A section of results: what it says, its numbers, its figure. Terminal, page, Markdown and LaTeX render this object.

    a view of a run -> a builder (`experiments.report.sections`) -> Section -> Table -> a renderer

Builders know statistics and no format; renderers (this module, and `page` for HTML) know formats and no statistics. All
numbers are in the frame. CSV files, tables and figures only show it: no renderer computes a number or chooses a row.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from experiments.report.figure import Figure
from experiments.stats import format_interval, format_share, format_signed, is_wide, markdown_table, markdown_text
from experiments.stats.arms import NO_VALUE, resolve_setting
from experiments.stats.formatting import format_p_number, format_range
from icl import ConfigError, DataFrame, did_you_mean, pd, rich, strip_control_characters

EMPTY = "–"
MAX_COLUMNS = 50
"""The largest number of columns that the values of one axis may become."""
Kind = Literal["text", "number", "estimate", "share", "signed", "interval", "between", "p", "count", "forest"]


def format_many(value: float) -> str:
    """A count, or a mean of counts: '1,200', '47.5', '1.33', '2'."""
    return f"{value:,.{0 if value == int(value) or value >= 100 else 1 if value >= 10 else 2}f}"


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "text": str,
    "number": str,
    "share": format_share,
    "signed": format_signed,
    "p": format_p_number,
    "count": format_many,
}


@dataclass(frozen=True)
class Column:
    """One column of a section's table.

    Attributes:
        name: The column of the frame.
        head: The heading; by default the name. Under `across`: what follows each value, as in '4 shots'.
        kind: How its values are written: 'estimate' as '.42 [.38, .46]', 'interval' as two ends with signs,
            'between' as two ends without signs, 'forest' as a drawing (on a page only). If the frame has a column
            `unread` (the share of unread outputs) and it `is_wide` in a row, 'estimate' writes the range from
            column `mean_low` to `mean_high` in place of the number.
        ends: The columns with the ends of an estimate, an interval or a drawing.
        says: What the numbers mean, in one sentence.
        spare: 0: always shown. On a narrow terminal other columns are shown if they fit, the smallest ranks first.
        bold: Where it is bold: a column of booleans.
    """

    name: str
    head: str = ""
    kind: Kind = "text"
    ends: tuple[str, str] = ("low", "high")
    says: str = ""
    spare: int = 0
    bold: str = ""


@dataclass(frozen=True)
class Sentence:
    """A claim with its numbers. asks: the question that it answers. verdict: a comparison's verdict, or ''."""

    claim: str
    numbers: str = ""
    verdict: str = ""
    asks: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """One result.

    Attributes:
        name: The anchor on the page, the name of its files, and the argument of `icl show RUN NAME`.
        title: The heading.
        sentences: What it says.
        frame: The numbers: one row per arm or comparison.
        columns: The columns of the table.
        across: An axis, a column of the frame. Its values become columns of the table; then the section has exactly one
            column of numbers, that is, of another kind than 'text'.
        parts: A column of the frame with a table for each value.
        faint: A column of booleans: rows in gray, such as controls.
        hidden: A column of booleans: rows that tables and figures leave out, until `select(controls=True)`.
        shared: A row with 'none' in all of these columns (an arm with 0 shots) is repeated for each combination of
            their values in rows with the same other labels.
        draw: Draws the shown rows.
        notes: How to read it.
        folded: If set, a page shows this line and hides the section behind it.
    """

    name: str
    title: str
    sentences: Sequence[Sentence] = ()
    frame: DataFrame | None = None
    columns: Sequence[Column] = ()
    across: str = ""
    parts: str = ""
    faint: str = ""
    hidden: str = ""
    shared: Sequence[str] = ()
    draw: Callable[[DataFrame], Figure] | None = None
    notes: Sequence[str] = ()
    folded: str = ""

    @cached_property
    def visible(self) -> DataFrame:
        """The rows of tables and figures: hidden ones are left out, shared ones are repeated."""
        frame = self.frame
        assert frame is not None
        frame = frame[~frame[self.hidden].eq(True)] if self.hidden else frame
        return _spread(frame, self) if self.shared else frame

    @cached_property
    def figure(self) -> Figure | None:
        return self.draw(self.visible) if self.draw and self.frame is not None and len(self.visible) else None

    @cached_property
    def tables(self) -> "list[Table]":
        """The shown rows, laid out."""
        return list(_tables(self)) if self.frame is not None and self.columns else []

    def select(self, arm: Mapping[str, Any] | None = None, controls: bool = False) -> "Section":
        """The rows of some settings; controls: with the rows of controls. Raises ConfigError for an unknown setting."""
        whole = replace(self, hidden="") if controls else self
        if not arm or self.frame is None:
            return whole
        rows = whole.visible
        if not self._axes():
            raise ConfigError(f"--arm: '{self.name}' has no rows of arms. Ask for scores, differences or sample.")
        for axis, value in resolve_setting(rows, arm, self._axes(), "--arm").items():
            rows = rows[rows[axis] == value]
        return replace(whole, frame=rows, hidden="", shared=())

    def turned(self, rows: Sequence[str] = (), columns: str = "") -> "Section":
        """The table with other axes as rows and columns, without `parts`. Raises ConfigError for an unknown axis.

        Args:
            rows: Axes whose labels come first. All other axes but that of the columns stay labels, behind them.
            columns: The axis whose values become columns; by default `across`.
        """
        if not self.across or not (rows or columns):
            return self
        axes, across = self._axes(), columns or self.across
        for option, axis in [*(("--rows", row) for row in rows), ("--columns", across)]:
            if axis not in axes:
                near = did_you_mean(axis, axes)
                raise ConfigError(f"{option}: the run has no axis '{axis}'.{near} Axes that vary: {', '.join(axes)}.")
        if across in rows:
            raise ConfigError(f"'{across}' is an axis of the rows: name another one with --columns.")
        if (number := self.visible[across].nunique()) > MAX_COLUMNS:
            raise ConfigError(
                f"'{across}' has {number} values, and a table has at most {MAX_COLUMNS} columns. Put it into the rows: "
                f"--rows {across}."
            )
        labels = dict.fromkeys([*rows, *(axis for axis in axes if axis != across)])
        values = [column for column in self.columns if column.kind != "text"]
        head = values[0].head if across == self.across else ""
        return replace(
            self,
            frame=self.visible,
            hidden="",
            shared=(),
            parts="",
            across=across,
            columns=[*map(Column, labels), replace(values[0], head=head)],
        )

    def _axes(self) -> list[str]:
        labels = [column.name for column in self.columns if column.kind == "text"]
        return list(dict.fromkeys(filter(None, [self.parts, *labels, self.across])))

    def to_markdown(self) -> str:
        """The section for a model card, an issue or a README."""
        return "\n".join(_markdown(self)) + "\n"

    def to_latex(self) -> str:
        """The tables for a paper (booktabs), with the notes below."""
        return "\n".join(_latex(self)) + "\n"

    def print(self, console: "rich.console.Console") -> None:
        """Prints the section at the console's width: columns that do not fit are named, and no cell is cut."""
        for one in _renderables(self, console.width):
            console.print(one, highlight=False)


@dataclass(frozen=True)
class TableCell:
    """The text of a cell: `main` with a lighter `interval`, such as '.420' and '[.38, .46]'.

    span: (left end, middle, right end, zero) of a drawing, as shares of its width.
    """

    main: str = ""
    interval: str = ""
    bold: bool = False
    span: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.main} {self.interval}".strip()

    @property
    def tight(self) -> "TableCell":
        """The cell for a narrow terminal: '[.98,1]' for '[.98, 1.00]'."""
        interval = self.interval.replace(", ", ",").replace("[.00,", "[0,").replace("1.00]", "1]")
        return replace(self, interval=interval)


@dataclass(frozen=True)
class Head:
    """A heading with the kind of its cells."""

    text: str
    kind: Kind = "text"
    says: str = ""
    spare: int = 0

    @property
    def number(self) -> bool:
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """A table of texts. rows: (cells, whether the row is faint)."""

    title: str
    heads: Sequence[Head]
    rows: Sequence[tuple[Sequence[TableCell], bool]] = field(default_factory=list)

    @property
    def of_text(self) -> "Table":
        """The table without drawings."""
        return self.only([i for i, head in enumerate(self.heads) if head.kind != "forest"])

    @property
    def labels(self) -> int:
        """The number of first columns that name a row."""
        return next((i for i, head in enumerate(self.heads) if head.number), len(self.heads))

    def only(self, places: Sequence[int]) -> "Table":
        """Some of its columns."""
        rows = [([cells[i] for i in places], faint) for cells, faint in self.rows]
        return Table(self.title, [self.heads[i] for i in places], rows)

    def widths(self) -> list[int]:
        """The width of each column, in letters."""
        return [
            max([len(head.text), *(len(cells[i].text) for cells, _ in self.rows)]) for i, head in enumerate(self.heads)
        ]

    def fitted(self, width: int) -> "tuple[list[Table], list[str]]":
        """The table as blocks of columns for a terminal of some width, and the headings of the columns left out.

        Intervals are written tighter, then spare columns are left out. If that is not enough, the columns of numbers
        stand below each other, each block with the labels of its rows. Only labels may still be too wide: they wrap.
        """
        if _total(self.widths()) <= width:
            return [self], []
        tight = replace(self, rows=[([cell.tight for cell in cells], faint) for cells, faint in self.rows])
        places = [i for i, head in enumerate(self.heads) if not head.spare]
        for i in sorted((i for i, head in enumerate(self.heads) if head.spare), key=lambda i: self.heads[i].spare):
            if _total(tight.only([*places, i]).widths()) <= width:
                places.append(i)
        out = [head.text for i, head in enumerate(self.heads) if i not in places]
        return list(tight.only(sorted(places))._blocks(width)), out

    def _blocks(self, width: int) -> "Iterator[Table]":
        widths = self.widths()
        labels = list(range(self.labels))
        numbers = list(range(len(labels), len(self.heads)))
        least = sum(min(widths[i], MIN_LABEL) + GAP for i in labels)
        if len(labels) > 1 and least > max(width // 2, width - max((widths[i] for i in numbers), default=0)):
            yield from self._joined(labels, numbers)._blocks(width)
            return
        block: list[int] = []
        for i in numbers:
            if block and least + _total([widths[j] for j in [*block, i]]) > width:
                yield self.only([*labels, *block])
                block = []
            block.append(i)
        yield self.only([*labels, *block])

    def _joined(self, labels: Sequence[int], numbers: Sequence[int]) -> "Table":
        """The table with its labels in one column: 'knn, vcd'."""
        rows = [
            ([TableCell(", ".join(filter(None, (cells[i].text for i in labels)))), *(cells[i] for i in numbers)], faint)
            for cells, faint in self.rows
        ]
        head = Head(", ".join(self.heads[i].text for i in labels))
        return Table(self.title, [head, *(self.heads[i] for i in numbers)], rows)


MIN_LABEL = 10
"""The smallest width of a column of labels with wrapped texts."""
GAP = 1
"""The spaces between two columns; two if there is room."""


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)


def _spread(frame: DataFrame, one: Section) -> DataFrame:
    """The frame with each row that has 'none' in all shared columns repeated for the values that it stands for."""
    shared = [name for name in one.shared if name in frame]
    general = (frame[shared] == NO_VALUE).all(axis=1) if shared else pd.Series(False, frame.index)
    fixed = [c.name for c in one.columns if c.kind == "text" and c.name not in shared]
    fixed = [*filter(None, [one.parts]), *fixed]
    if not general.any() or general.all():
        return frame
    wide = frame[~general][[*fixed, *shared]].drop_duplicates()
    stands = frame[general].drop(columns=shared).reset_index(names="_row")
    spread = wide.merge(stands, on=fixed) if fixed else wide.merge(stands, how="cross")
    alone = frame[general & ~frame.index.isin(spread["_row"])]
    return pd.concat([frame[~general], spread.drop(columns="_row")[list(frame)], alone], ignore_index=True)


def _tables(one: Section) -> Iterator[Table]:
    frame = one.visible
    for part, rows in frame.groupby(one.parts, sort=False) if one.parts else [("", frame)]:
        if one.across:
            yield _pivoted(one, str(part), rows)
            continue
        columns = [c for c in one.columns if c.kind in ("interval", "forest") or _has_values(rows[c.name])]
        reach = {c.name: float(rows[list(c.ends)].abs().max().max()) for c in columns if c.kind == "forest"}
        body = [([_cell(c, row, reach) for c in columns], _is(row, one.faint)) for row in rows.to_dict("records")]
        yield Table(str(part), [Head(c.head or c.name, c.kind, c.says, c.spare) for c in columns], body)


def _pivoted(one: Section, title: str, rows: DataFrame) -> Table:
    """A table in which each value of the column `across` has a column of estimates. Constant labels are left out."""
    (value,) = (c for c in one.columns if c.kind != "text")
    labels = [c for c in one.columns if c.kind == "text"]
    labels = [c for c in labels if rows[c.name].nunique() > 1] or labels[-1:]
    values = rows[one.across]
    places = list(dict.fromkeys(values.sort_values() if values.dtype.kind in "iuf" else values))
    heads = [Head(c.head or c.name, says=c.says) for c in labels]
    heads += [Head(f"{place} {value.head}".strip(), value.kind, value.says) for place in places]
    body = []
    for _, own in rows.groupby([c.name for c in labels], sort=False, dropna=False):
        records = {row[one.across]: row for row in own.to_dict("records")}
        first = next(iter(records.values()))
        numbers = [_cell(value, records[place]) if place in records else TableCell(EMPTY) for place in places]
        body.append(([*(_cell(c, first) for c in labels), *numbers], _is(first, one.faint)))
    return Table(title, heads, body)


def _has_values(values: Any) -> bool:
    return not all(_is_missing(value) or (isinstance(value, str) and not value) for value in values)


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN or pandas.NA."""
    return not hasattr(value, "__len__") and bool(pd.isna(value))


def _cell(column: Column, row: Mapping[Any, Any], reach: Mapping[str, float] | None = None) -> TableCell:
    bold, value = _is(row, column.bold), row[column.name]
    if _is_missing(value):
        return TableCell("" if column.kind in ("count", "forest", "text") else EMPTY)
    ends = [row[end] for end in column.ends] if column.kind in ("interval", "between", "estimate", "forest") else []
    if column.kind == "interval":
        return TableCell(format_interval(*ends), "", bold)
    if column.kind == "between":
        return TableCell("[{}, {}]".format(*map(format_share, ends)), "", bold)
    if column.kind == "estimate":
        own = f"{column.name}_" if f"{column.name}_unread" in row else ""  # a table of several metrics has it for each
        wide = is_wide(row.get(f"{own}unread", 0.0))  # no number between the bounds means anything
        main = format_range((row[f"{own}mean_low"], row[f"{own}mean_high"])) if wide else format_share(value)
        digits = 2 if round(ends[0], 2) <= value <= round(ends[1], 2) else 3  # an interval has its estimate inside
        return TableCell(main, "[{}, {}]".format(*(format_share(end, digits) for end in ends)), bold)
    if column.kind == "forest":
        edge = (reach or {}).get(column.name) or 1.0
        return TableCell(bold=bold, span=tuple((x / edge + 1) / 2 for x in (ends[0], value, ends[1], 0.0)))
    return TableCell(FORMATS[column.kind](value), "", bold)


def _is(row: Mapping[Any, Any], name: str) -> bool:
    return bool(name) and row[name] == True  # noqa: E712  # NaN is not true


def _renderables(one: Section, width: int) -> "Iterator[Any]":
    """What rich prints."""
    yield _text(one.title, "bold")
    for sentence in one.sentences:
        line = _text(f"{sentence.asks} ", "dim") if sentence.asks else _text("")
        line.append(_text(sentence.claim)).append(_text(f" {sentence.numbers}", "dim"))
        yield rich.padding.Padding(line, (0, 0, 0, 2))
    left_out: dict[str, None] = {}
    for table in one.tables:
        blocks, out = table.of_text.fitted(width)
        left_out |= dict.fromkeys(out)
        if table.title:
            yield _text(table.title, "bold")
        yield from (_rich_table(block, width) for block in blocks)
    if left_out:
        yield _text(f"columns that do not fit: {', '.join(left_out)}", "dim")
    for note in filter(None, one.notes):
        yield _text(note, "dim")


def _text(words: str, style: str = "") -> "rich.text.Text":
    return rich.text.Text(strip_control_characters(words), style)


def _rich_table(table: Table, width: int) -> Any:
    widths = table.widths()
    while (surplus := _total(widths) - width) > 0:  # the widest text gives most of the room
        texts = [i for i, head in enumerate(table.heads) if not head.number and widths[i] > MIN_LABEL]
        if not texts:
            break
        widest = max(texts, key=widths.__getitem__)
        widths[widest] -= min(surplus, widths[widest] - MIN_LABEL, max(1, widths[widest] // 4))
    gap = 2 if _total(widths) + len(widths) - 1 <= width else GAP
    rich_table = rich.table.Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for head, size in zip(table.heads, widths, strict=True):
        title = head.text if head.number else wrap_label(head.text, size)
        rich_table.add_column(_text(title), justify="right" if head.number else "left", width=size, no_wrap=True)
    last = ""
    for cells, faint in table.rows:
        texts_of_row = [
            _text(cell.main if head.number else wrap_label(cell.text, size), "bold" if cell.bold else "").append(
                _text(f" {cell.interval}" if cell.interval and head.number else "", "dim")
            )
            for cell, head, size in zip(cells, table.heads, widths, strict=True)
        ]
        if table.labels > 1 and cells[0].text == last:
            texts_of_row[0] = _text("")
        last = cells[0].text
        rich_table.add_row(*texts_of_row, style="dim" if faint else None)
    return rich_table


def wrap_label(label: str, width: int) -> str:
    """The label on lines of a width. It breaks after spaces and commas and before brackets, else anywhere."""
    lines = [""]
    for piece in re.findall(r"\(?[^\s(,]*[\s,]*", label):
        rest = piece
        if lines[-1] and len(lines[-1]) + len(rest.rstrip()) > width:
            lines.append("")
        while len(rest.rstrip()) > width:
            lines[-1], rest = rest[:width], rest[width:]
            lines.append("")
        lines[-1] += rest
    return "\n".join(line.rstrip() for line in lines)


def _markdown(one: Section) -> Iterator[str]:
    yield f"## {markdown_text(one.title)}\n"
    for sentence in one.sentences:
        asks = f"**{markdown_text(sentence.asks)}** " if sentence.asks else ""
        yield f"- {asks}{markdown_text(f'{sentence.claim} {sentence.numbers}'.strip())}"
    for table in one.tables:
        yield f"\n### {markdown_text(table.title)}\n" if table.title else ""
        plain = table.of_text
        rows = [[_bold_markdown(cell) for cell in cells] for cells, _ in plain.rows]
        yield markdown_table([head.text for head in plain.heads], rows, [head.number for head in plain.heads])
    yield from (f"\n{markdown_text(note)}" for note in one.notes if note)


def _bold_markdown(cell: TableCell) -> str:
    text = markdown_text(cell.text)
    return f"**{text}**" if cell.bold and text else text


LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
    }
    | {"†": "$^{\\dagger}$", "±": "$\\pm$", "≤": "$\\leq$", "×": "$\\times$", "–": "--", "−": "$-$", "→": "$\\to$"}
    | {"\n": " ", "\t": " ", "`": "\\textasciigrave{}", "·": "$\\cdot$"}
)


def latex_text(text: str) -> str:
    """The text with what LaTeX would read as markup escaped. A '[' at the start would be an argument of '\\\\'."""
    return ("{[}" + text[1:].translate(LATEX)) if text.startswith("[") else text.translate(LATEX)


def _latex(one: Section) -> Iterator[str]:
    """A booktabs table per part. A first label that repeats is blank, and the rows of the next one start a group."""
    for table in (table.of_text for table in one.tables):
        if table.title:
            yield f"\\noindent\\textbf{{{latex_text(table.title)}}}\\par\\smallskip"
        yield f"\\noindent\\begin{{tabular}}{{{''.join('r' if head.number else 'l' for head in table.heads)}}}"
        yield "\\toprule"
        yield " & ".join(latex_text(head.text) for head in table.heads) + " \\\\\n\\midrule"
        last = None
        for cells, _ in table.rows:
            first, grouped = cells[0].text, table.labels > 1
            if grouped and last is not None and first != last:
                yield "\\addlinespace"
            texts = ["" if i == 0 and grouped and first == last else _latex_cell(cell) for i, cell in enumerate(cells)]
            yield " & ".join(texts) + " \\\\"
            last = first
        yield "\\bottomrule\n\\end{tabular}\\par\\bigskip"
    if notes := " ".join(filter(None, one.notes)):
        yield f"{{\\noindent\\footnotesize {latex_text(notes)}}}\\par"


def _latex_cell(cell: TableCell) -> str:
    main, interval = latex_text(cell.main), cell.interval.translate(LATEX)
    main = f"\\textbf{{{main}}}" if cell.bold else main
    return f"{main} {{\\scriptsize {interval}}}" if interval else main
