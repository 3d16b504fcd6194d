"""Saved training states: safetensors for arrays, one JSON string for the rest, replaced atomically. No pickle."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Optimizers = Sequence[torch.optim.Optimizer]


def rate(step: int, steps: int, warmup: int, flat: float = 0.0, floor: float = 0.0) -> float:
    """The share of the top learning rate: warm-up, and a cosine to `floor` that begins after the share `flat`."""
    done = max(0.0, step / steps - flat) / (1 - flat)
    return min(1.0, (step + 1) / warmup) * max(floor, 0.5 * (1 + math.cos(math.pi * done)))


def save(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Writes atomically, so that a kill leaves the old state or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, partial, {"notes": json.dumps(notes)})
    os.replace(partial, path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a saved state."""
    with safe_open(path, "pt") as file:
        notes: dict[str, Any] = json.loads(file.metadata()["notes"])
        return {key: file.get_tensor(key) for key in file.keys()}, notes  # noqa: SIM118 (not a mapping)


def save_run(path: Path, model: nn.Module, optimizers: Optimizers, rng: np.random.Generator, step: int) -> None:
    """Saves what a run needs to continue exactly: weights, optimizer moments, random stream, step."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    save(path, tensors | moments_of(optimizers), {"step": step, "rng": rng.bit_generator.state})


def load_run(path: Path, model: nn.Module, optimizers: Optimizers, rng: np.random.Generator) -> int:
    """Restore what `save_run` wrote, in place; returns the step. 0 if nothing was saved."""
    if not path.exists():
        return 0
    tensors, notes = load(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    restore_moments(optimizers, tensors)
    rng.bit_generator.state = notes["rng"]
    return int(notes["step"])


def moments_of(optimizers: Optimizers) -> dict[str, Tensor]:
    """The moments of each optimizer, by 'optimizer.N.PARAMETER.NAME'."""
    return {
        f"optimizer.{which}.{i}.{k}": v
        for which, optimizer in enumerate(optimizers)
        for i, moments in optimizer.state_dict()["state"].items()
        for k, v in moments.items()
    }


def restore_moments(optimizers: Optimizers, tensors: dict[str, Tensor]) -> None:
    """Sets what `moments_of` gave, in place."""
    for which, optimizer in enumerate(optimizers):
        moments: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{which}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                i, name = key.removeprefix(prefix).split(".")
                moments.setdefault(int(i), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
