"""A GPU that is faked on a CPU: its memory is that of the tensors that live, and waits for it can be counted."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from live_storages import LiveStorages

WAITS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default")


class FakeGPU(LiveStorages):
    """The functions of `torch.cuda` that checks call.

    Attributes:
        total: Its memory in bytes.
        limit: Bytes above which an allocation fails.
        failures: Allocations that failed.
        warns: Whether an operation that would wait for the device warns.
    """

    def __init__(self, total: int = 2**34, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.total, self.limit, self.capability = total, float(total), capability
        self.failures, self.warns = 0, False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(operation) in WAITS:
            self.wait()
        result = super().__torch_dispatch__(operation, types, args, kwargs)
        if self.sweep() > self.limit:
            self.failures += 1
            del result
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return result

    def wait(self) -> None:
        """What CUDA's debug mode does at an operation that waits."""
        if self.warns:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    def reset_peak(self) -> None:
        self.peak = self.sweep()

    def set_fraction(self, fraction: float) -> None:
        self.limit = fraction * self.total

    def set_sync_debug_mode(self, mode: str) -> None:
        self.warns = mode == "warn"


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, gpu: FakeGPU) -> Iterator[FakeGPU]:
    """`torch.cuda` is this GPU. Tensors still are on the CPU."""
    faked: dict[str, Any] = {
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "is_available": lambda: False,
        "memory_allocated": gpu.sweep,
        "max_memory_allocated": lambda: gpu.peak,
        "reset_peak_memory_stats": gpu.reset_peak,
        "mem_get_info": lambda: (gpu.total - gpu.sweep(), gpu.total),
        "get_device_capability": lambda: gpu.capability,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=gpu.total),
        "set_per_process_memory_fraction": gpu.set_fraction,
        "memory_stats": lambda: {"num_ooms": gpu.failures},
        "set_sync_debug_mode": gpu.set_sync_debug_mode,
        "_device_count_nvml": lambda: 1,
    }
    for name, function in faked.items():
        monkeypatch.setattr(torch.cuda, name, function)
    tolist = torch.Tensor.tolist

    def waiting_tolist(self: torch.Tensor) -> Any:
        gpu.wait()
        return tolist(self)

    monkeypatch.setattr(torch.Tensor, "tolist", waiting_tolist)
    with gpu:
        yield gpu
