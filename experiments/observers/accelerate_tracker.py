"""What MLflow, Weights & Biases, TensorBoard and trackio share: the trackers of accelerate."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from experiments.observers.base import ObservedState, Observer
from experiments.stats.formatting import markdown_text
from icl.errors import ConfigError

PROCESS_COUNTS = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which accelerate believes that there are several processes."""
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


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as Markdown."""
    cells = [["" if value is None else markdown_text(str(value)) for value in row] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
