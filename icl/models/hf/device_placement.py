"""Device and precision of a checkpoint."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from icl import ModelError, torch

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
        if "SLURM_JOB_ID" in os.environ and bool(_slurm_gpus()):
            raise ModelError(f"{key}: {cuda_problem()} To run on the CPU, set `device: cpu`.")
        return "cpu", "cpu"

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

    return torch.cuda.is_available()


def _may_have_cuda() -> bool:
    return sys.platform != "linux" or any(Path(path).exists() for path in DRIVERS)


def execution_device(module: Any) -> "torch.device":
    """The device on which a module's first weights are. Offloaded ones are brought there for each call by accelerate.

    Raises:
        ModelError: Its weights are on no device, and nothing brings them.
    """
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
    _, place = resolve_device(device, device_map)
    resolved = resolve_dtype(device, device_map, dtype)
    arguments: dict[str, Any] = {"device_map": device_map or place}
    arguments["dtype"] = resolved if resolved == "auto" else getattr(torch, resolved)
    if attention != "auto":
        arguments["attn_implementation"] = attention
    return arguments


DEVICES = Path("/dev")
SLURM_GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
"""Variables in which Slurm lists or counts the GPUs of a job."""

BUILDS = "https://pytorch.org/get-started/locally"


def cuda_problem() -> str:
    """The sentence, or '' if CUDA can be used. It starts CUDA in this process."""
    if torch.version.cuda is None and torch.version.hip is None:
        has_gpu = any(DEVICES.glob("nvidia[0-9]*"))
        build = f"this torch ({torch.__version__}) is built for the CPU"
        return f"{build}. Install a build for {'the GPU of this machine' if has_gpu else 'CUDA'}: {BUILDS}."
    if torch.cuda.device_count() == 0:
        if problem := slurm_problem():
            return problem
        if (visible := os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()) in ("", "-1"):
            return f"CUDA_VISIBLE_DEVICES={visible or repr(visible)} hides every GPU from this process. Unset it."
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has no type for it
    except (RuntimeError, AssertionError) as error:
        return _sentence(str(error))
    return "" if torch.cuda.device_count() else _sentence("No CUDA GPUs are available")


def slurm_problem() -> str:
    """What is wrong if no GPU is visible inside a Slurm job on a GPU node; '' outside one."""
    if "SLURM_JOB_ID" not in os.environ:
        return ""
    if name := _slurm_gpus():
        return (
            f"Slurm gave this job a GPU ({name}={os.environ[name]}), but none is visible in this process "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}). Start it in the job's step "
            "with `srun --gpus=1`, or show the node to its administrators."
        )
    if any(DEVICES.glob("nvidia[0-9]*")):
        return "this node has GPUs, but the Slurm job has none. Ask for one, such as `--gpus-per-node=1`."
    return ""


def _slurm_gpus() -> str:
    """The first variable of SLURM_GPUS that lists or counts a GPU, or ''."""
    return next((name for name in SLURM_GPUS if os.environ.get(name, "0") not in ("", "0")), "")


def _sentence(error: str) -> str:
    """What torch's error means."""
    if old := re.search(r"driver on your system is too old \(found version (\d+)\)", error):
        number = int(old[1])
        return (
            f"the NVIDIA driver is too old: it knows CUDA up to {number // 1000}.{number % 1000 // 10}, and this torch "
            f"needs CUDA {torch.version.cuda}. Update the driver, or install a torch for an older CUDA: {BUILDS}."
        )
    if "no NVIDIA driver" in error:
        return "this machine has no NVIDIA driver, or it does not answer. Install it, and check it with `nvidia-smi`."
    if "No CUDA GPUs" in error:
        return "torch sees no GPU. `icl doctor` says what it needs."
    return f"CUDA does not start: {error.strip().splitlines()[0]}"
