"""The table of an analysis in the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.config.keys import AXES
from experiments.stats.formatting import format_interval, format_p_number, format_share, format_signed

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

LOW, HIGH = "low", "high"
GAP = 2


@dataclass(frozen=True)
class TableColumn:
    """One column of a table as text.

    Attributes:
        name: The heading.
        cells: A text per row.
        label: Whether it has labels and no numbers.
    """

    name: str
    cells: list[str]
    label: bool

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))


def table_columns(frame: "DataFrame") -> dict[str, TableColumn]:
    """The columns of an analysis as text, without constant settings. An interval is one column."""
    same = _constant_axes(frame)
    differences = frame.attrs.get("signed", ())
    columns: dict[str, TableColumn] = {}
    lows = {column: str(column).removesuffix(LOW) + HIGH for column in frame if _ends(column, LOW)}
    lows = {low: high for low, high in lows.items() if high in frame}
    for column in (str(column) for column in frame if column not in {*same, *lows.values()}):
        values = frame[column].tolist()
        label = all(isinstance(value, str) for value in values)
        bound = column in lows
        name = (column.removesuffix(LOW) + "95 %" if bound else column).replace("_", " ")
        name = frame.attrs.get("heads", {}).get(column, name)
        if bound:
            pairs = zip(values, frame[lows[column]].tolist(), strict=True)
            texts = [_between(low, high, column in differences) for low, high in pairs]
        else:
            texts = [_cell_text(column, value, column in differences) for value in values]
        columns[column] = TableColumn(name, texts, label)
    return columns


def constant_settings(frame: "DataFrame") -> str:
    """The axes that are the same in all rows, such as 'binding, 4 shots'; '' without any."""
    return ", ".join(_heading(axis, str(frame[axis].iloc[0])) for axis in _constant_axes(frame))


def print_analysis(frame: "DataFrame", console: "Console") -> None:
    """Prints the title with the constant settings, one row per setting, and the note.

    In a narrow terminal, settings are printed in lines above their rows.
    """
    from rich.console import Console
    from rich.text import Text

    columns = table_columns(frame)
    headed: list[str] = []
    if sum(column.width + GAP for column in columns.values()) - GAP > console.width:
        headed = [column for column in columns if column in AXES]  # printed in a line above the row
    visible_columns = [column for name, column in columns.items() if name not in headed]
    needed = sum(column.width + GAP for column in visible_columns) - GAP
    if needed > console.width:  # the terminal wraps lines that are still too long
        console = Console(width=needed, file=console.file)
    same = constant_settings(frame)
    console.print(Text(str(frame.attrs.get("title", "")), "bold").append(f"  {same}" if same else "", "dim"))
    console.print(Text(_line([(column, column.name) for column in visible_columns]), "dim"))
    above = None
    for i in range(len(frame)):
        heading = ", ".join(_heading(name, columns[name].cells[i]) for name in headed)
        if heading != above and headed:
            console.print(Text(heading, "bold"))
        above = heading
        console.print(Text(_line([(column, column.cells[i]) for column in visible_columns])))
    if note := frame.attrs.get("note"):
        console.print(str(note), style="dim", highlight=False)


def _line(cells: Sequence[tuple[TableColumn, str]]) -> str:
    """Aligns labels left and numbers right."""
    texts = (text.ljust(column.width) if column.label else text.rjust(column.width) for column, text in cells)
    return (" " * GAP).join(texts).rstrip()


def _heading(axis: str, value: str) -> str:
    return f"{value} shots" if axis == "shots" else value


def _ends(column: Any, bound: str) -> bool:
    """Whether a column is the lower or upper end of an interval, such as 'low' or 'beyond_low'."""
    return str(column) == bound or str(column).endswith(f"_{bound}")


def _constant_axes(frame: "DataFrame") -> list[Any]:
    return [axis for axis in frame if axis in AXES and frame[axis].nunique() == 1]


def _between(low: float | None, high: float | None, difference: bool) -> str:
    if low is None or high is None or math.isnan(low):
        return "–"
    return format_interval(low, high) if difference else f"[{format_share(low)}, {format_share(high)}]"


def _cell_text(column: str, value: Any, difference: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return (
            format_p_number(value)
            if column == "p" or column.endswith("_p")
            else format_signed(value)
            if difference
            else format_share(value)
        )
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
