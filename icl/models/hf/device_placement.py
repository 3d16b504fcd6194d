"""Device and precision of a checkpoint."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.models.hf.cuda_problem import cuda_problem, slurm_promises_gpu

if TYPE_CHECKING:
    import torch

TYPES = ("cpu", "cuda", "mps", "xpu")
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Device files of CUDA drivers on Linux: desktop and server, Tegra (two), WSL, and ROCm, which torch also calls cuda.
"""


def resolve_device(name: str, device_map: str | None = None, key: str = "model.device") -> tuple[str, str]:
    """(kind, device), with 'auto' resolved. Raises ModelError if the accelerator is not available.

    Args:
        name: The device.
        device_map: The device map of accelerate, in place of a device.
        key: Where the device is set, for the error.
    """
    if device_map is not None or name == "auto":
        if has_cuda():
            return "cuda", "cuda"
        if slurm_promises_gpu():
            raise ModelError(f"{key}: {cuda_problem()} To run on the CPU, set `device: cpu`.")
        return "cpu", "cpu"
    import torch

    kind, _, number = name.partition(":")
    if kind not in TYPES or (number and not number.isdigit()):
        raise ModelError(f"{key}: '{name}' is not a device. Use auto, cpu, cuda, cuda:1, mps or xpu.")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise ModelError(f"{key}: '{name}' is requested, but {cuda_problem()} Or use `device: cpu`.")
        if int(number or 0) >= count:
            last = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise ModelError(f"{key}: '{name}' is requested, but torch sees {count} CUDA devices. Use {last}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"{key}: 'mps' is requested, but this machine has none. Use `device: cpu` or `auto`.")
    return kind, name


def resolve_dtype(device: str, device_map: str | None, dtype: str) -> str:
    """Name of the dtype. 'auto' is the checkpoint's own, the default on an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if resolve_device(device, device_map)[0] == "cpu" else "auto"


def has_cuda() -> bool:
    """Whether torch sees a CUDA device. It is not imported where no driver has a device file."""
    if not _may_have_cuda():
        return False
    import torch

    return torch.cuda.is_available()


def _may_have_cuda() -> bool:
    return sys.platform != "linux" or any(Path(path).exists() for path in DRIVERS)


def execution_device(module: Any) -> "torch.device":
    """The device on which a module's first weights are. Offloaded ones are brought there for each call by accelerate.

    Raises:
        ModelError: Its weights are on no device, and nothing brings them.
    """
    import torch

    place: Any = None
    for part in module.modules():  # a part after the parts that contain it
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):  # one hook, or a sequence of them
            place = getattr(each, "execution_device", None) if getattr(each, "offload", False) else place
        weight = next(part.parameters(recurse=False), None)
        if weight is not None and weight.device.type != "meta":
            return torch.device(weight.device)
        if weight is not None and place is not None:
            return torch.device(place)
    raise ModelError(f"the weights of a {type(module).__name__} are on no device. Set another `device_map`.")


def loading_arguments(device: str, device_map: str | None, dtype: str, attention: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that place the weights."""
    import torch

    _, place = resolve_device(device, device_map)
    resolved = resolve_dtype(device, device_map, dtype)
    arguments: dict[str, Any] = {"device_map": device_map or place}
    arguments["dtype"] = resolved if resolved == "auto" else getattr(torch, resolved)
    if attention != "auto":
        arguments["attn_implementation"] = attention
    return arguments
