"""The losses of a training as a figure: losses of the steps in one panel, losses on dev episodes in another.

A curve is a file of `icl fit`: one JSON object a line, with the number of finished steps, `loss` and, at checkpoints,
`dev_loss`. Episodes of the steps differ between adapters with and without demonstrations, dev episodes do not.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from experiments.report.figure import Figure, Line, dashed_lines, encode_lines
from icl.errors import StoreError

PANELS = {"loss": "loss of the step", "dev_loss": "loss on dev episodes"}
"""Key of a line -> title of its panel."""


def read_curve(path: Path, key: str) -> list[tuple[int, float]]:
    """(step, loss) of each line with this key. Raises StoreError if the file is not one of losses."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(int(line["step"]), float(line[key])) for line in lines if key in line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no file of losses ({type(error).__name__}: {error}).") from error


def draw_losses(curves: Mapping[str, Path], path: Path) -> None:
    """Draws the losses of several adapters: name -> its file. Raises StoreError."""
    import altair as alt
    import pandas as pd

    panels, looks = {}, {name: Line(number, number) for number, name in enumerate(curves)}
    for key, title in PANELS.items():
        rows = [(name, *point) for name, file in curves.items() for point in read_curve(file, key)]
        data = pd.DataFrame(rows, columns=["line", "step", "loss"])
        x = alt.X("step:Q", title="finished steps")
        y = alt.Y("loss:Q", title="loss, in nats", scale=alt.Scale(zero=False))
        marks = alt.Chart(data).mark_point(filled=True, size=30, opacity=float(key != "loss"))
        if rows or key == "loss":
            panels[title] = alt.layer(
                *dashed_lines(data, looks, 1, x=x, y=y), marks.encode(x=x, y=y, **encode_lines(looks))
            )
    Figure(panels, looks).write(path.with_suffix(""), [path.suffix[1:]])
