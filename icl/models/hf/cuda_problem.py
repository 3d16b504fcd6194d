"""Why torch cannot use a CUDA device, in a sentence that says what to do."""

import os
import re
from pathlib import Path

DEVICES = Path("/dev")
SLURM_GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
"""Variables in which Slurm lists or counts the GPUs of a job."""

BUILDS = "https://pytorch.org/get-started/locally"


def cuda_problem() -> str:
    """The sentence, or '' if CUDA can be used. It starts CUDA in this process."""
    import torch

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


def slurm_promises_gpu() -> bool:
    """Whether Slurm says that this job has a GPU."""
    return "SLURM_JOB_ID" in os.environ and bool(_slurm_gpus())


def _slurm_gpus() -> str:
    """The first variable of SLURM_GPUS that lists or counts a GPU, or ''."""
    return next((name for name in SLURM_GPUS if os.environ.get(name, "0") not in ("", "0")), "")


def _sentence(error: str) -> str:
    """What torch's error means."""
    import torch

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
