"""Write a run as TensorBoard events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.observers.accelerate_tracker import AccelerateTracker, markdown_table
from icl.registry import component


@component("observer", "tensorboard")
@dataclass
class TensorBoard(AccelerateTracker):
    """TensorBoard: settings and a score per cell, tables as text. It has no place for files such as the report.

    `tensorboard --logdir runs` shows the events of all runs.
    """

    tracker_name: ClassVar[str] = "tensorboard"

    def arguments(self, run: Path) -> Mapping[str, Any]:
        return {"run_name": "tensorboard", "logging_dir": str(run / "trackers")}

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.tracker.tracker.add_text(name, markdown_table(columns, rows))
