"""Training states: weights, moments of the optimizer and the step, in one safetensors file that is replaced at once."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icl import StoreError, canonical_bytes

STATE = "state.safetensors"
CURVE = "losses.jsonl"


@contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turns an error of writing inside the block, such as a full disk, into a StoreError with the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise StoreError(
            f"{path} cannot be written: {reason}. The last checkpoint, if any, is kept. Once the folder can be "
            "written, the same command continues from it."
        ) from error


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A file to write, which replaces `path` at the end of the block. After an error the old file stays.

    Raises:
        StoreError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with report_write_errors(path):
            yield part
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def saved_step(folder: Path) -> int | None:
    """The step of the state in a folder. None if the folder has no readable state."""
    try:
        with safe_open(folder / STATE, "pt") as file:
            return int(json.loads(file.metadata()["notes"])["step"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class TrainingFolder:
    """A folder with the state of a training run and its curve.

    Attributes:
        path: The folder.
        settings: Digest of what decides the weights. A state of other settings is not continued.
    """

    path: Path
    settings: str

    def save(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
        """Writes the state after `step` optimizer steps. Raises StoreError if that fails."""
        tensors = {f"weight.{name}": one.detach() for name, one in parameters.items()}
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{number}.{name}": one for name, one in moments.items()}
        tensors = {name: one.cpu().contiguous().clone() for name, one in tensors.items()}
        notes = {"step": step, "settings": self.settings}
        notes["checksum"] = _checksum(notes, tensors)
        with replacement(self.path / STATE) as part:
            save_file(tensors, part, {"notes": json.dumps(notes)})

    def load(self, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Tensor]]:
        """Restores the optimizer.

        Returns:
            The number of steps, and name -> weight. 0 and nothing if there is no state.

        Raises:
            StoreError: The state is damaged, or belongs to other settings.
        """
        path = self.path / STATE
        if not path.is_file():
            return 0, {}
        try:
            with safe_open(path, "pt") as file:
                notes: dict[str, Any] = json.loads(file.metadata()["notes"])
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            checksum = notes.pop("checksum", None)  # None: written before states had one
            if checksum not in (None, _checksum(notes, tensors)):
                raise ValueError("its content has another checksum")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error}). Remove it to train again.") from error
        if notes["settings"] != self.settings:
            raise StoreError(
                f"{self.path} has a training state of other settings: the file, the model or the data have changed "
                "since. Use another folder with --out, or remove it."
            )
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("moment."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        weights = {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
        return int(notes["step"]), weights


def _checksum(notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the notes and of the names, types, shapes and bytes of the tensors."""
    digest = sha256(canonical_bytes(notes))
    for name, one in sorted(tensors.items()):
        digest.update(f"{name} {one.dtype} {tuple(one.shape)} ".encode())
        digest.update(one.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Curve:
    """The file of losses: one JSON object a line, with the number of finished steps."""

    def __init__(self, path: Path, step: int) -> None:
        """Keeps the lines before `step`, which will be computed again, without lines that a kill has cut."""
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        with replacement(path) as part:
            part.write_text("".join(f"{line}\n" for line in lines if _step_of(line) < step), encoding="utf-8")

    def append(self, **values: float) -> None:
        with report_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    """The step of a line; infinity if it is not a line of a curve."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
