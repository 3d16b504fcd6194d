"""Whether this machine has a GPU, found out without starting CUDA in this process.

vLLM forks its engine's process unless CUDA was started before, and a fork of a process that asked CUDA for its devices
cannot use CUDA ("Cannot re-initialize CUDA in forked subprocess"). `torch.cuda.is_available()` asks CUDA, and so does
`torch.cuda.device_count()` if NVML does not work.
"""

import os
from pathlib import Path

DEVICES = Path("/dev")
DEVICE_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""Files of NVIDIA GPUs, of GPUs in the Windows Subsystem for Linux, and of AMD GPUs."""


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return False
    if os.name == "posix" and not any(any(DEVICES.glob(pattern)) for pattern in DEVICE_FILES):
        return False
    return torch.cuda.device_count() > 0
