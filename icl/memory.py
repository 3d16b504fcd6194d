"""Memory of the host and of the device: free bytes, the largest batch that fits, errors, and copies between the two.

The host waits for each copy that it reads, so there are as few as possible. Types of errors are compared by name, so
that nothing here imports torch.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl import ICLError, ModelError, Tensor, torch

TYPES = frozenset({"OutOfMemoryError", "MemoryError"})
"""Names of an error's class or of one of its bases: torch's own errors, and errors of Python and numpy."""

TEXTS = (
    "out of memory",  # CUDA, HIP, XPU and MPS; also AcceleratorError, NCCL and bitsandbytes
    "can't allocate memory",  # the CPU allocator on Linux
    "not enough memory: you tried to allocate",  # the CPU allocator on Windows and of some builds
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cudaErrorMemoryAllocation",
    "Failed to allocate memory",
)
"""Parts of the message of errors of other types. Case does not matter."""

OTHER_FAULTS = ("out of resource: shared memory", "OutOfResources", "illegal memory access")
"""Parts of errors that a smaller batch does not mend: a kernel too large for the device, and a broken CUDA context."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator or the CPU ran out of memory, also where the error only has such an error as its cause."""
    for link in causes(error):
        message = f"{type(link).__name__}: {link}"
        if any(text in message for text in OTHER_FAULTS):
            return False
        if not TYPES.isdisjoint(base.__name__ for base in type(link).__mro__):
            return True
        if any(text.lower() in message.lower() for text in TEXTS):
            return True
    return False


@contextmanager
def report_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into a ModelError.

    Args:
        what: What does not fit, the beginning of the sentence.
        remedy: What to use instead.
    """
    try:
        yield
    except ICLError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"{what} does not fit into memory: {first_line(error)}. Use {remedy}.") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message without a period at its end, or the name of its type if there is none."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def causes(error: BaseException | None, *, contexts: bool = False) -> Iterator[BaseException]:
    """The error, its `__cause__`, and so on. Each is visited once.

    contexts: also follow `__context__`, the error that was being handled.
    """
    visited = set[int]()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if contexts else None)


# The largest batch that fits into memory, remembered for a run.
#
#     a batch of s fails      its parts are at most s / 2; no batch of s or more is tried again
#     4 full batches fit      the limit grows by a quarter, below the smallest batch that failed
#
# Results do not depend on the limit, so it is no part of any digest.

GROWTH, FULL_BATCHES = 1.25, 4
"""A limit grows by this factor after so many full batches. A batch is full if the limit before its growth was less."""


@dataclass
class BatchLimit:
    """The largest size of a batch, in the unit of its user: padded tokens, or items.

    Attributes:
        budget: The size at the beginning, which is never exceeded.
        now: The largest size that is tried.
        failed: The smallest size that ran out of memory.
        full_batches: Full batches that fit since the limit last changed.
    """

    budget: int
    now: int = field(init=False)
    failed: float = field(init=False, default=float("inf"))
    full_batches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.now = self.budget

    def fits(self, size: int) -> bool:
        """Whether a batch of this size may be formed."""
        return size <= self.now

    def record_fit(self, size: int) -> None:
        """A batch of this size fitted."""
        self.full_batches += size > self.now / GROWTH
        if self.full_batches >= FULL_BATCHES:
            self.full_batches = 0
            grown = min(self.budget, int(self.now * GROWTH))
            if grown < self.failed:
                self.now = grown

    def record_failure(self, size: int) -> None:
        """A batch of this size ran out of memory."""
        self.failed = min(self.failed, size)
        self.now, self.full_batches = max(1, min(self.now, size // 2)), 0

    def forget_since(self, before: "BatchLimit") -> None:
        """Back to an earlier state of this limit. A single item that fails says nothing about batches."""
        vars(self).update(vars(before))


MIN_UNLIMITED = 2**60
"""Version 1 of control groups writes "no limit" as a number near 2^63."""


def host_memory(root: Path = Path("/")) -> tuple[float, float] | None:
    """(free bytes, total bytes) of the smallest limit. None where the system does not say, as outside Linux.

    Args:
        root: Folder of `proc` and `sys`.
    """
    try:
        rows = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        sizes = [1024.0 * int(rows[name].split()[0]) for name in ("MemAvailable", "MemTotal")]
    except (OSError, KeyError, ValueError):
        return None
    limits = [(sizes[0], sizes[1]), *_group_limits(root)]
    return min(limits, key=lambda limit: limit[0])


def _group_limits(root: Path) -> Iterator[tuple[float, float]]:
    """(free bytes, limit) of the control group of this process and of each group around it."""
    for folder, limit_file, used_file in _group_folders(root):
        try:
            limit = float((folder / limit_file).read_text())
            used = float((folder / used_file).read_text())
            rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimable = float(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
        except (OSError, ValueError):  # no such limit here, or "max"
            continue
        if limit < MIN_UNLIMITED:
            yield max(0.0, limit - used + reclaimable), limit


def _group_folders(root: Path) -> Iterator[tuple[Path, str, str]]:
    """(folder, file of its limit, file of its use), innermost first. Version 2, then version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            yield folder, *files


def copied_to_device(values: Any, dtype: "torch.dtype", device: "torch.device") -> Tensor:
    """A tensor of Python numbers on a device. The host does not wait for the copy."""
    return moved_to_device(torch.tensor(values, dtype=dtype), device)


def moved_to_device(on_host: Tensor, device: "torch.device") -> Tensor:
    """A tensor of the host on a device. The host does not wait for the copy."""
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def read_together(tensors: Sequence[Tensor]) -> list[list[list[float]]]:
    """The rows of several tensors [B, K], copied from each device to the host at once.

    float64 holds token ids and float32 exactly. Devices without it use float32, which holds ids below 2^24.
    """
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

    def on(self, device: "torch.device") -> Tensor:
        """[R] int64 on the device."""
        if device not in self._copies:
            self._copies[device] = copied_to_device(self.rows, torch.long, device)
        return self._copies[device]


class StepIndices:
    """Numbers on the device of a session, of rows for example. Those that the previous step used are not copied again.

    Attributes:
        device: The device of the logits.
    """

    def __init__(self, device: "torch.device") -> None:
        self.device = device
        self._used: dict[tuple[Any, ...], Tensor] = {}
        self._before: dict[tuple[Any, ...], Tensor] = {}

    def of(self, numbers: Sequence[float], dtype: "torch.dtype | None" = None) -> Tensor:
        """[R] on the device, int64 by default."""
        key = (dtype, *numbers)
        if key not in self._used:
            before = self._before.get(key)
            self._used[key] = copied_to_device(numbers, dtype or torch.long, self.device) if before is None else before
        return self._used[key]

    def select(self, tensor: Tensor, rows: Sequence[int]) -> Tensor:
        """These rows of a tensor. Adjacent ones are not copied."""
        if list(rows) == list(range(rows[0], rows[0] + len(rows))):
            return tensor[rows[0] : rows[0] + len(rows)] if len(rows) < len(tensor) else tensor
        return tensor.index_select(0, self.of(rows))

    def next_step(self) -> None:
        """Forgets the numbers that this step did not use."""
        self._before, self._used = self._used, {}


def has_float64(device: "torch.device") -> bool:
    """Whether a device computes in float64. Apple's GPUs (mps) and some of Intel's (xpu) do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def wide_dtype(device: "torch.device") -> "torch.dtype":
    """float64, or float32 on a device without it."""
    return torch.float64 if has_float64(device) else torch.float32


def widened(values: Tensor) -> Tensor:
    """The numbers in the widest type of their device."""
    return values.to(wide_dtype(values.device))


def on_device_with_float64(values: Tensor) -> Tensor:
    """The tensor where float64 exists: on its device, else on the host, which waits for the copy."""
    return values if has_float64(values.device) else values.cpu()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM, MAP = 512 * 2**20, 64 * 2**20
"""Free bytes to keep at the top of the heap, and size from which a block gets its own mapping."""


def keep_freed_memory() -> bool:
    """Make glibc's allocator reuse freed memory. False for other allocators, and if the environment configures it.

    A growing cache frees and allocates the same few megabytes in every layer at every step. By default, glibc returns
    each block to the kernel, which then clears its pages again. With a small model this takes more than half of the
    time of a long answer. Peak memory does not change.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    if allocator is None:
        return False
    return bool(allocator(M_MMAP_THRESHOLD, MAP)) and bool(allocator(M_TRIM_THRESHOLD, TRIM))
