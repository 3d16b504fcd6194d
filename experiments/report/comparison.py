"""The table of `icl compare` in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.report.view import View
from experiments.stats.compare import verdicts
from experiments.stats.wording import interval, p_number, share, signed

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

DISPENSABLE = ("n", "score", "against", "p")
"""Columns that a narrow terminal does without, the first first."""
LOOKS = {"better": "green", "worse": "red", "differs": "default", "open": "default"}


def show_comparison(table: "DataFrame", view: View, console: "Console") -> None:
    """A row an arm; coloured where the corrected p is at most .05."""
    from rich.table import Table
    from rich.text import Text

    axes = [axis for axis in view.axes if table[axis].nunique() > 1] or ["decoding"]
    corrected = table.attrs["correct"] == "holm" and bool((table["family"] > 1).any())
    columns = _columns(table, axes, corrected, "down/up" if view.better == "neither" else "lost/won")
    for name in DISPENSABLE:
        if _width(columns) > console.width:
            del columns[name]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        grid.add_column(name, justify="left" if name in axes else "right", overflow="fold")
    for cells, verdict in zip(zip(*columns.values(), strict=True), verdicts(table), strict=True):
        grid.add_row(*map(Text, cells), style=LOOKS[verdict])
    reference = ", ".join(dict.fromkeys(table["reference"]))
    console.print(Text(f"{view.measure} against {reference}", "bold"))
    console.print(grid)
    sizes = " or ".join(map(str, sorted(set(table["family"]))))
    family = f"; Holm over {sizes} comparisons" if corrected else ""
    test = "exact McNemar" if set(table["test"]) == {"mcnemar"} else "paired bootstrap, McNemar where right/wrong"
    units = " or ".join(f"{c:,}" for c in sorted(set(table["clusters"])))
    console.print(f"{test}, {units} independent units{family}; n: pairs of (query, seed)", style="dim", highlight=False)


def _columns(table: "DataFrame", axes: Sequence[str], corrected: bool, counts: str) -> dict[str, list[str]]:
    """heading -> cells, from left to right. counts: heading of the samples that changed."""
    found = {axis: [str(value) for value in table[axis]] for axis in axes}
    found |= {"score": [share(v) for v in table["mean"]], "against": [share(v) for v in table["reference_mean"]]}
    found["difference"] = [signed(v) for v in table["difference"]]
    found["95 % interval"] = [interval(a, b) for a, b in zip(table["low"], table["high"], strict=True)]
    found["p"] = [p_number(v) for v in table["p"]]
    if corrected:
        found["p Holm"] = [p_number(v) for v in table["p_corrected"]]
    lost_won = zip(table["right_to_wrong"], table["wrong_to_right"], strict=True)
    found[counts] = [f"{lost}/{won}" for lost, won in lost_won]
    found["n"] = [f"{v:,}" for v in table["pairs"]]
    return found


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(len(name), *map(len, cells)) + 2 for name, cells in columns.items())
