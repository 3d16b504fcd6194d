"""Copies between host and device: the fewest possible, because the host waits for each one that it reads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def copied_to_device(values: Any, dtype: "torch.dtype", device: "torch.device") -> "Tensor":
    """A tensor of Python numbers on a device. The host does not wait for the copy."""
    import torch

    return moved_to_device(torch.tensor(values, dtype=dtype), device)


def moved_to_device(on_host: "Tensor", device: "torch.device") -> "Tensor":
    """A tensor of the host on a device. The host does not wait for the copy."""
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def read_together(tensors: "Sequence[Tensor]") -> list[list[list[float]]]:
    """The rows of several tensors [B, K], copied from each device to the host at once.

    float64 holds token ids and float32 exactly. Devices without it use float32, which holds ids below 2^24.
    """
    import torch

    numbers: dict[torch.device, list[float]] = {}
    for device in dict.fromkeys(each.device for each in tensors):
        first, *others = [each.flatten() for each in tensors if each.device == device]
        numbers[device] = torch.cat([widened(first), *others]).tolist()
    read, begins = [], dict.fromkeys(numbers, 0)
    for each in tensors:
        (rows, columns), begin, flat = each.shape, begins[each.device], numbers[each.device]
        end = begins[each.device] = begin + rows * columns
        read.append([flat[place : place + columns] for place in range(begin, end, columns)] if columns else [[]] * rows)
    return read


class RowIndex:
    """Row numbers on the host, with one copy on each device that needs them."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self._copies: dict[torch.device, Tensor] = {}

    def on(self, device: "torch.device") -> "Tensor":
        """[R] int64 on the device."""
        import torch

        if device not in self._copies:
            self._copies[device] = copied_to_device(self.rows, torch.long, device)
        return self._copies[device]


class StepIndices:
    """Row numbers on the device of a session. Numbers that the previous step used are not copied again.

    Attributes:
        device: The device of the logits.
    """

    def __init__(self, device: "torch.device") -> None:
        self.device = device
        self._used: dict[tuple[int, ...], Tensor] = {}
        self._before: dict[tuple[int, ...], Tensor] = {}

    def of(self, rows: Sequence[int]) -> "Tensor":
        """[R] int64 on the device."""
        import torch

        key = tuple(rows)
        index = self._used.get(key)
        if index is None:
            index = self._before.get(key)
        if index is None:
            index = copied_to_device(key, torch.long, self.device)
        self._used[key] = index
        return index

    def next_step(self) -> None:
        """Forgets the numbers that this step did not use."""
        self._before, self._used = self._used, {}


def has_float64(device: "torch.device") -> bool:
    """Whether a device computes in float64. Apple's GPUs (mps) and some of Intel's (xpu) do not."""
    import torch

    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def wide_dtype(device: "torch.device") -> "torch.dtype":
    """float64, or float32 on a device without it."""
    import torch

    return torch.float64 if has_float64(device) else torch.float32


def widened(values: "Tensor") -> "Tensor":
    """The numbers in the widest type of their device."""
    return values.to(wide_dtype(values.device))


def on_device_with_float64(values: "Tensor") -> "Tensor":
    """The tensor where float64 exists: on its device, else on the host, which waits for the copy."""
    return values if has_float64(values.device) else values.cpu()
