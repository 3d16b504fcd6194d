"""An analysis in the terminal."""

import math
from typing import TYPE_CHECKING, Any

from experiments.stats.wording import interval, p_number, share, signed
from experiments.vocabulary import AXES

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

LOW, HIGH = "low", "high"


def show(frame: "DataFrame", console: "Console") -> None:
    """Title with the settings that are the same everywhere, a row a setting, and the note below."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    same = [axis for axis in frame if axis in AXES and frame[axis].nunique() == 1]
    differences = frame.attrs.get("signed", ())
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    cells: list[list[str]] = []
    for column in (str(column) for column in frame if column not in same and not _ends(column, HIGH)):
        values = frame[column].tolist()
        label = all(isinstance(value, str) for value in values)
        bound = _ends(column, LOW)
        name = (column.removesuffix(LOW) + "95 %" if bound else column).replace("_", " ")
        grid.add_column(name, justify="left" if label else "right", no_wrap=True)
        if bound:
            highs = frame[column.removesuffix(LOW) + HIGH].tolist()
            cells.append([_between(a, b, column in differences) for a, b in zip(values, highs, strict=True)])
        else:
            cells.append([_told(column, value, column in differences) for value in values])
    for row in zip(*cells, strict=True):
        grid.add_row(*map(Text, row))
    needed = grid.__rich_measure__(console, console.options.update(max_width=10_000)).maximum
    if needed > console.width:  # numbers are not folded: a narrow terminal wraps the lines
        console = Console(width=needed, file=console.file)
    console.print(Text(str(frame.attrs.get("title", "")), "bold").append(_same(frame, same), "dim"))
    console.print(grid)
    if note := frame.attrs.get("note"):
        console.print(str(note), style="dim", highlight=False)


def _ends(column: Any, bound: str) -> bool:
    """Is it the lower or upper end of an interval: 'low', 'beyond_low'?"""
    return str(column) == bound or str(column).endswith(f"_{bound}")


def _same(frame: "DataFrame", axes: list[Any]) -> str:
    told = [f"{frame[axis].iloc[0]} shots" if axis == "shots" else str(frame[axis].iloc[0]) for axis in axes]
    return f"  {', '.join(told)}" if told else ""


def _between(low: float, high: float, difference: bool) -> str:
    if math.isnan(low):
        return "–"
    return interval(low, high) if difference else f"[{share(low)}, {share(high)}]"


def _told(column: str, value: Any, difference: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return p_number(value) if column == "p" else signed(value) if difference else share(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
