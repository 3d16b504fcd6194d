"""The table of `icl compare` in the terminal."""

from typing import TYPE_CHECKING

from experiments.report.view import View
from experiments.stats.compare import verdicts
from experiments.stats.wording import interval, p_number, share, signed

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

LOOKS = {"better": "green", "worse": "red", "open": "default"}


def show_comparison(table: "DataFrame", view: View, console: "Console") -> None:
    """A row an arm; coloured where the corrected p is at most .05."""
    from rich.table import Table
    from rich.text import Text

    axes = [axis for axis in view.axes if table[axis].nunique() > 1] or ["decoding"]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for axis in axes:
        grid.add_column(axis, overflow="fold")
    corrected = bool((table["p_corrected"] != table["p"]).any())
    heads = [
        "score",
        "against",
        "difference",
        "95 % interval",
        "p",
        *(["p Holm"] if corrected else []),
        "lost/won",
        "n",
    ]
    for head in heads:
        grid.add_column(head, justify="right", no_wrap=True)
    for row, verdict in zip(table.to_dict("records"), verdicts(table), strict=True):
        numbers = [share(row["mean"]), share(row["reference_mean"]), signed(row["difference"])]
        numbers += [interval(row["low"], row["high"]), p_number(row["p"])]
        numbers += [p_number(row["p_corrected"])] if corrected else []
        numbers += [f"{row['right_to_wrong']}/{row['wrong_to_right']}", f"{row['pairs']:,}"]
        grid.add_row(*(Text(str(row[axis])) for axis in axes), *map(Text, numbers), style=LOOKS[verdict])
    reference = ", ".join(dict.fromkeys(table["reference"]))
    console.print(Text(f"{view.metric} accuracy against {reference}", "bold"))
    console.print(grid)
    sizes = " or ".join(map(str, sorted(set(table["family"]))))
    family = f"; Holm over {sizes} comparisons" if corrected else ""
    test = "exact McNemar" if set(table["test"]) == {"mcnemar"} else "paired bootstrap, McNemar where right/wrong"
    units = " or ".join(f"{c:,}" for c in sorted(set(table["clusters"])))
    console.print(f"{test}, {units} independent units{family}; n: pairs of (query, seed)", style="dim", highlight=False)
