"""Write a run to Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.observers.accelerate_tracker import AccelerateTracker
from icl.registry import component


@component("observer", "wandb")
@dataclass
class WandB(AccelerateTracker):
    """Weights & Biases: settings, a score per cell, tables and the report, offline unless you say otherwise.

    Offline, the files are in the folder `trackers` of the run directory, and `wandb sync` uploads them.
    """

    tracker_name: ClassVar[str] = "wandb"

    project: str = "mm-icl"  # project that the run belongs to
    entity: str | None = None  # user or team; by default that of the account
    mode: Literal["online", "offline"] | None = None  # whether to upload; by default WANDB_MODE, else offline

    def arguments(self, run: Path) -> Mapping[str, Any]:
        import wandb

        folder = run / "trackers"
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "run_name": self.project,  # accelerate's name for the project
            "name": run.name,
            "entity": self.entity,
            "mode": self.mode or os.environ.get("WANDB_MODE", "offline"),
            "dir": str(folder),
            "settings": wandb.Settings(silent=True, console="off"),
        }

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.tracker.log_table(name, columns=list(columns), data=[list(row) for row in rows])

    def artifact(self, path: Path) -> None:
        import wandb

        artifact = wandb.Artifact(path.stem, type="report")
        artifact.add_file(str(path))
        self.tracker.tracker.log_artifact(artifact)
