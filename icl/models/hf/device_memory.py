"""Free memory of the devices that hold a model's layers."""

from dataclasses import dataclass
from typing import Any

import torch

from icl.memory.host_memory import host_memory
from icl.models.hf.device_placement import execution_device


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
    """The memory of each device with layers of a loaded model. The KV cache of an offloaded layer is where it runs."""
    stack = getattr(model.get_decoder(), "layers", None) or [model]
    places = [execution_device(layer) for layer in stack]
    counts = {place: places.count(place) for place in places}
    memories = [device_memory(place, count / len(places)) for place, count in counts.items()]
    return [memory for memory in memories if memory is not None]
