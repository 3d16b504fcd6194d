"""An analysis in the terminal."""

import math
from typing import TYPE_CHECKING, Any

from experiments.stats.wording import p_number, share, signed

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

P = ("p",)


def show(frame: "DataFrame", console: "Console") -> None:
    """Title, a row a setting, and the note below."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    differences = frame.attrs.get("signed", ())
    for column in frame:
        text = all(isinstance(value, str) for value in frame[column])
        grid.add_column(str(column).replace("_", " "), justify="left" if text else "right", overflow="fold")
    for row in frame.to_dict("records"):
        grid.add_row(*(Text(_told(str(column), value, column in differences)) for column, value in row.items()))
    console.print(Text(str(frame.attrs.get("title", "")), "bold"))
    console.print(grid)
    if note := frame.attrs.get("note"):
        console.print(str(note), style="dim", highlight=False)


def _told(column: str, value: Any, difference: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return p_number(value) if column in P else signed(value) if difference else share(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
