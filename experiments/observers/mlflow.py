"""Write a run to MLflow."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.observers.accelerate_tracker import AccelerateTracker
from icl.registry import component

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


@component("observer", "mlflow")
@dataclass
class MLflow(AccelerateTracker):
    """MLflow: settings, a score per cell, tables and the report, in a file beside the run or on a tracking server.

    The score of a cell is a metric such as `lenient/decoding vcd`. Tables and the report are artifacts.
    """

    tracker_name: ClassVar[str] = "mlflow"

    experiment: str = "mm-icl"  # experiment that the run belongs to
    tracking_uri: str | None = None  # server or database; by default MLFLOW_TRACKING_URI, else mlflow.db beside the run

    def arguments(self, run: Path) -> Mapping[str, Any]:
        import mlflow

        # A server that is down would otherwise hold the run for minutes.
        os.environ.setdefault(RETRIES, "2")
        os.environ.setdefault(TIMEOUT, "20")
        folder = run.absolute().parent
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri or f"sqlite:///{folder / 'mlflow.db'}")  # MLflow 3 refuses plain folders
        artifacts = None if uri else (folder / "mlflow-artifacts").as_uri()
        return {"experiment_name": self.experiment, "run_name": run.name, "logging_dir": artifacts}

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import mlflow

        mlflow.log_table({column: [row[i] for row in rows] for i, column in enumerate(columns)}, f"{name}.json")

    def artifact(self, path: Path) -> None:
        self.tracker.log_artifact(str(path))
