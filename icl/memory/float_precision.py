"""The widest floating-point type of a device: float64, except where the hardware has none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
