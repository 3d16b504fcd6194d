"""The losses of a training as a figure: those of the steps in one panel, those on dev episodes in another.

A curve is a file of `icl tune`: one JSON object a line, with the number of finished steps, `loss` and, at checkpoints,
`dev_loss`. Episodes of the steps differ between adapters with and without demonstrations, dev episodes do not.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from experiments.report.figure_files import (
    DOTS_PER_INCH,
    MARKS,
    METADATA,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    STYLE,
    import_matplotlib,
)
from experiments.report.figures import COLORS, PALETTE
from experiments.store.store import report_write_errors
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
    """Draws the losses of several adapters.

    Args:
        curves: Name of an adapter -> its file of losses.
        path: The figure; its suffix is the format (`check_figure_file`).

    Raises:
        StoreError: A curve cannot be read, or the figure not be written.
    """
    mpl = import_matplotlib()
    from matplotlib.figure import Figure

    points = {key: {name: read_curve(file, key) for name, file in curves.items()} for key in PANELS}
    panels = {key: own for key, own in points.items() if key == "loss" or any(own.values())}
    kind = path.suffix.removeprefix(".")
    with mpl.rc_context(STYLE), report_write_errors(path):
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), PANEL_HEIGHT), layout="constrained")
        axes = list(figure.subplots(1, len(panels), squeeze=False, sharex=True).ravel())
        for panel, (key, own) in zip(axes, panels.items(), strict=True):
            for number, (name, curve) in enumerate(own.items()):
                style = {
                    "color": PALETTE[number % COLORS],
                    "marker": MARKS[number % len(MARKS)] if key != "loss" else None,
                }
                panel.plot([step for step, _ in curve], [loss for _, loss in curve], lw=1, ms=4, label=name, **style)
            panel.set_title(PANELS[key])
            panel.set_xlabel("finished steps")
        axes[0].set_ylabel("loss, in nats")
        axes[0].legend(fontsize=7, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, dpi=DOTS_PER_INCH, metadata=METADATA[kind], bbox_inches="tight")
