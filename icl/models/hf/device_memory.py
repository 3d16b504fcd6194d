"""Free memory of the devices that hold a model's layers."""

from dataclasses import dataclass
from typing import Any

import torch

from icl.host_memory import host_memory


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a device, in bytes.

    Attributes:
        layer_fraction: Part of the decoder's layers, and so of the KV cache, that the device holds.
    """

    kind: str
    free: float
    total: float
    layer_fraction: float = 1.0


def device_memory(device: torch.device, layer_fraction: float = 1.0) -> DeviceMemory | None:
    """The memory of a device. None if it does not say. On a MIG slice it is that of the slice."""
    sizes: tuple[float, float] | None = None
    if device.type in ("cuda", "xpu"):
        sizes = getattr(torch, device.type).mem_get_info(device)
    elif device.type == "mps":
        total = float(torch.mps.recommended_max_memory())
        sizes = total - torch.mps.driver_allocated_memory(), total
    elif device.type == "cpu":
        sizes = host_memory()
    return None if sizes is None else DeviceMemory(device.type, *sizes, layer_fraction)


def model_memories(model: Any) -> list[DeviceMemory]:
    """The memory of each device that holds layers of a loaded model. Layers that are offloaded count nowhere."""
    stack = getattr(model.get_decoder(), "layers", None) or [model]
    places = [next(iter(layer.parameters())).device for layer in stack]
    counts = {place: places.count(place) for place in places if place.type != "meta"}
    memories = [device_memory(place, count / len(places)) for place, count in counts.items()]
    return [memory for memory in memories if memory is not None]
