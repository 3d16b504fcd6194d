"""Write a run to MLflow, TensorBoard, trackio or Weights & Biases: the trackers of accelerate."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from experiments.observers.base import ObservedState, Observer
from experiments.stats import markdown_table, markdown_text
from icl import ConfigError, component, pd

PROCESS_COUNTS = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which accelerate believes that there are several processes."""
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
MAX_TEXT = 500
"""The longest text of a setting. MLflow refuses texts of more than 6,000 characters, older servers of more than 500."""


@dataclass
class AccelerateTracker(Observer):
    """Base class of observers that write to a tracker of accelerate. The step of a score is the number of cells.

    Attributes:
        tracker_name: The tracker's name in accelerate.
        tracker: The started tracker.
        step: The number of cells that were reported.
    """

    tracker_name: ClassVar[str]

    # Without annotations, so that these two are no parameters.
    tracker = cast("Any", None)
    step = 0

    def arguments(self, run: Path) -> Mapping[str, Any]:
        """The arguments of the tracker's class in accelerate, for a run directory."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ConfigError if the tracker's package is missing."""
        from accelerate.tracking import get_available_trackers

        available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        if self.tracker_name not in available:
            raise ConfigError(
                f"{self.tracker_name} is not installed (pip install {self.tracker_name}). "
                f"Trackers that are installed here: {', '.join(available) or 'none'}."
            )

    def started(self, run: Path, settings: Mapping[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        _prepare_accelerate()
        self.step = 0
        self.tracker = LOGGER_TYPE_TO_CLASS[self.tracker_name](**self.arguments(run))
        if hasattr(self.tracker, "start"):  # earlier versions of accelerate start in the constructor
            self.tracker.start()
        self.tracker.store_init_configuration(flatten(settings))

    def cell(self, labels: Mapping[str, Any], scores: Mapping[str, float], samples: int) -> None:
        self.step += 1
        setting = [f"{axis} {value}" for axis, value in labels.items()]
        values = {clean_key("/".join([metric, *setting])): score for metric, score in scores.items()}
        self.tracker.log(values | {"samples": samples}, self.step)

    def finished(self, state: ObservedState) -> None:
        self.tracker.finish()


@component("observer", "mlflow")
@dataclass
class MLflow(AccelerateTracker):
    """MLflow: settings, a score per cell, tables and the report, in a file next to the run or on a tracking server.

    The score of a cell is a metric such as `lenient/decoding vcd`. Tables and the report are artifacts.
    """

    tracker_name: ClassVar[str] = "mlflow"

    experiment: str = "mm-icl"  # experiment that the run belongs to
    tracking_uri: str | None = None  # server or database; default: MLFLOW_TRACKING_URI, else mlflow.db next to the run

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
        cells = [["" if value is None else markdown_text(str(value)) for value in row] for row in rows]
        self.tracker.tracker.add_text(name, markdown_table(columns, cells))


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
        import trackio

        self.tracker.log({name: trackio.Table(dataframe=pd.DataFrame(rows, columns=list(columns)))})


@component("observer", "wandb")
@dataclass
class WandB(AccelerateTracker):
    """Weights & Biases: settings, a score per cell, tables and the report, offline unless you say otherwise.

    Offline, the files are in the folder `trackers` of the run directory, and `wandb sync` uploads them.
    """

    tracker_name: ClassVar[str] = "wandb"

    project: str = "mm-icl"  # project that the run belongs to
    entity: str | None = None  # user or team; by default the account's
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


def _prepare_accelerate() -> None:
    """Makes the state of accelerate, without which each call of a tracker raises: it asks for the main process.

    The state would wait for the other processes of a launcher such as torchrun or MPI, which call no observer.
    """
    from accelerate import PartialState

    hidden = {name: os.environ.pop(name) for name in PROCESS_COUNTS if name in os.environ}
    try:
        PartialState(cpu=True)
    finally:
        os.environ.update(hidden)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as dotted keys with numbers and texts, which every tracker takes."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        name = f"{prefix}{clean_key(str(key))}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, bool | int | float) else _text(value)[:MAX_TEXT]
    return flat


def clean_key(text: str) -> str:
    """The text with the characters that MLflow allows in a key: 'mask_only vcd' for 'mask_only(vcd)'."""
    plain = text.replace("(", " ").replace(")", "")
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in plain)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
