"""Whether the models of a grid fit on a device, from the largest request that the plan counts for each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from icl.errors import ConfigError, ModelError
from icl.parameter_files import expand_user
from retrievers.machinery.embedding_models import (
    GIB,
    SHIPPED,
    PlacedEmbedder,
    gpu_memory,
    needed_bytes,
    placed_embedders,
)

if TYPE_CHECKING:
    from experiments.planning.plan import Plan
    from icl.models.base import Model
    from icl.models.hf.memory import MemoryPlan

UNITS = {"MB": 2**20, "GB": 2**30, "TB": 2**40}
"""Sizes of devices are named in decimal units and built in binary ones: a card of 24 GB has 24 GiB."""


def device_bytes(text: str) -> float:
    """'24GB', '80 GiB', '1.5TB' -> bytes. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])i?B", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--device: '{text}' is not the memory of a device. Write 24GB, 40960MB or 1.5TB.")
    return float(match[1]) * UNITS[f"{match[2].upper()}B"]


def local_gpu_bytes(models: "Sequence[Model]") -> float | None:
    """Size of the first GPU here, or of its slice if it is divided (MIG). None if no model computes on it."""
    is_used = any(model.device_type == "cuda" and not model.owns_gpu for model in models)
    return gpu_memory()[1] if is_used else None


def memory_plans(plan: "Plan", device: float) -> Iterator[tuple[str, "MemoryPlan | None", str]]:
    """(label of the model, its memory on a device, embedders beside it). None: the memory cannot be estimated.

    Args:
        plan: The plan, whose largest requests are counted.
        device: Size of the device in bytes.
    """
    images = plan.work.images + plan.work.edited
    for cell, sizes in plan.largest.by_model():
        estimates = [cell.model.memory_plan(replace(size, images=images), device) for size in sizes]
        memory = max(filter(None, estimates), key=lambda estimate: estimate.need, default=None)
        yield str(cell.labels["model"]), memory, _embedders(plan, cell.model, memory, device)


def memory_lines(plans: Sequence[tuple[str, "MemoryPlan | None", str]]) -> Iterator[str]:
    """One line for each model."""
    for label, memory, embedders in plans:
        text = memory.describe() if memory else "no estimate; only models of `hf` that are not stored packed have one"
        yield f"{label}: {text}{embedders}"


def check_memory(plans: Sequence[tuple[str, "MemoryPlan | None", str]]) -> None:
    """Raise ModelError if one request of a model does not fit on the device."""
    problems = [f"{label}: {memory.problem}" for label, memory, _ in plans if memory and memory.problem]
    if problems:
        raise ModelError(" ".join(problems))


def _embedders(plan: "Plan", model: "Model", memory: "MemoryPlan | None", device: float) -> str:
    """'; embedder on cpu': the device of each embedder with a checkpoint that the model's cells use."""
    parts = [
        part for cell in plan.grid.cells if cell.model is model for part in (cell.retriever, *(cell.rerankers or ()))
    ]
    from icl.models.hf.memory import model_bytes

    embedders = dict.fromkeys(embedder for part in parts for embedder in placed_embedders(part))
    room = device - model_bytes(memory.weights, device) if memory and not model.owns_gpu else 0.0
    places = list[str]()
    for embedder in embedders:
        needed = needed_bytes(_checkpoint_bytes(embedder))
        place = embedder.device
        if place == "auto":
            place = "cuda" if needed <= room else "cpu"
            room -= needed if needed <= room else 0.0
        places.append(place)
    return f"; embedder{'s' if len(places) > 1 else ''} on {', '.join(places)}" if places else ""


def _checkpoint_bytes(embedder: PlacedEmbedder) -> int:
    """Bytes of the weights, without a download: 1 GiB for a checkpoint on the hub."""
    path = str(getattr(embedder, "path", "tiny"))
    return embedder.checkpoint_bytes() if path in SHIPPED or expand_user(path).is_dir() else GIB
