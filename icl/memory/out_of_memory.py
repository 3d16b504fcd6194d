"""Recognition of out-of-memory errors, on which engines and backends halve a batch.

Types are compared by name, so that nothing here imports torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from icl.errors import ICLError, ModelError

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
    for link in _causes(error):
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
        raise ModelError(f"{what} does not fit into memory: {first_line(error)} Use {remedy}.") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its `__cause__`, and so on. Each is visited once."""
    visited = set[int]()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__


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
