"""On which device and in which precision a checkpoint runs."""

import sys
from pathlib import Path
from typing import Any

from icl.errors import ModelError

TYPES = ("cpu", "cuda", "mps", "xpu")
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Device files of CUDA drivers on Linux: desktop and server, Tegra (two), WSL, and ROCm, which torch calls cuda too."""


def device(wanted: str, device_map: str | None = None) -> tuple[str, str]:
    """(kind, device), 'auto' resolved. Raises ModelError where an accelerator is asked for that is not there."""
    if (device_map is not None or wanted == "auto") and not _may_have_cuda():
        return "cpu", "cpu"
    import torch

    if device_map is not None or wanted == "auto":
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return found, found
    kind, _, number = wanted.partition(":")
    if kind not in TYPES or (number and not number.isdigit()):
        raise ModelError(f"model.device: '{wanted}' is not a device. Use auto, cpu, cuda, cuda:1, mps or xpu.")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise ModelError(
                f"model.device: '{wanted}' is asked for, and torch sees {count or 'no'} CUDA devices. "
                "Use `device: cpu` or `auto`, or install a torch with CUDA."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("model.device: 'mps' is asked for, and this machine has none. Use `device: cpu` or `auto`.")
    return kind, wanted


def precision(wanted: str, device_map: str | None, dtype: str) -> str:
    """The dtype's name, or 'auto' for the checkpoint's own: the default where there is an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if device(wanted, device_map)[0] == "cpu" else "auto"


def _may_have_cuda() -> bool:
    """False where no driver has made a device file: then torch need not be imported to know."""
    return sys.platform != "linux" or any(Path(device).exists() for device in DRIVERS)


def how(wanted: str, device_map: str | None, dtype: str, attention: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` that place the weights."""
    import torch

    _, place = device(wanted, device_map)
    wide = precision(wanted, device_map, dtype)
    arguments: dict[str, Any] = {"device_map": device_map or place}
    arguments["dtype"] = wide if wide == "auto" else getattr(torch, wide)
    if attention != "auto":
        arguments["attn_implementation"] = attention
    return arguments
