"""Write a run to trackio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.observers.accelerate_tracker import AccelerateTracker
from icl.registry import component


@component("observer", "trackio")
@dataclass
class Trackio(AccelerateTracker):
    """trackio: settings, a score per cell and tables, in its folder on this machine (TRACKIO_DIR) or in a Space.

    `trackio show` opens its page. It has no place for files such as the report.
    """

    tracker_name: ClassVar[str] = "trackio"

    project: str = "mm-icl"  # project that the run belongs to
    space: str | None = None  # Space of the hub that receives the run, such as me/runs; by default this machine only

    def arguments(self, run: Path) -> Mapping[str, Any]:
        return {"run_name": self.project, "name": run.name, **({"space_id": self.space} if self.space else {})}

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import pandas as pd
        import trackio

        self.tracker.log({name: trackio.Table(dataframe=pd.DataFrame(rows, columns=list(columns)))})
