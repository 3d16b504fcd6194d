"""Errors of memory are recognized by type, by text and through their cause. Other faults of a device are not."""

import copy

import numpy as np
import pytest
import torch

from icl.memory import FULL_BATCHES, BatchLimit, first_line, is_out_of_memory
from icl.models.hf.batch_halving import run_within_limit
from icl.user_errors import convert_user_errors


def error_of_type(name: str, message: str) -> Exception:
    error: Exception = type(name, (RuntimeError,), {})(message)
    return error


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("float32")),
    error_of_type("OutOfMemoryError", "no room"),
    error_of_type("AcceleratorError", "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation`"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    RuntimeError("Error: Out Of Memory at line 50 in file /src/csrc/ops.cu"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    RuntimeError("cudaErrorMemoryAllocation"),
    RuntimeError("Failed to allocate memory for requested buffer of size 4096"),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    error_of_type("OutOfResources", "out of resource: shared memory, Required: 262144, Hardware limit: 101376."),
    RuntimeError("shape mismatch"),
    KeyError("memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
]
NAMES = [f"{type(error).__name__} {first_line(error)}"[:60] for error in (*OUT_OF_MEMORY, *OTHER)]


def caused_by(error: BaseException) -> ValueError:
    wrapper = ValueError("the model failed")
    wrapper.__cause__ = error
    return wrapper


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=NAMES[: len(OUT_OF_MEMORY)])
@pytest.mark.parametrize("wrap", [lambda error: error, caused_by], ids=["alone", "as a cause"])
def test_an_error_of_memory_halves_the_batch_and_passes_the_conversion_of_user_errors(wrap, error) -> None:
    def run(batch: list[int]) -> list[int]:
        if len(batch) > 1:
            with convert_user_errors():
                raise wrap(error)
        return batch

    assert is_out_of_memory(wrap(error))
    assert run_within_limit(run, [1, 2, 3], BatchLimit(3), "things") == [1, 2, 3]


@pytest.mark.parametrize("error", OTHER, ids=NAMES[len(OUT_OF_MEMORY) :])
@pytest.mark.parametrize("wrap", [lambda error: error, caused_by], ids=["alone", "as a cause"])
def test_another_fault_does_not_halve_the_batch(wrap, error) -> None:
    calls = []

    def run(batch: list[int]) -> list[int]:
        calls.append(batch)
        raise wrap(error)

    assert not is_out_of_memory(wrap(error))
    with pytest.raises(type(wrap(error))):
        run_within_limit(run, [1, 2, 3], BatchLimit(3), "things")
    assert calls == [[1, 2, 3]]


def test_a_fault_that_breaks_the_device_is_not_retried_for_the_error_of_memory_that_caused_it() -> None:
    fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    fault.__cause__ = MemoryError()
    assert not is_out_of_memory(fault)


def test_errors_that_cause_each_other_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_out_of_memory(one)


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(RuntimeError("\n two \nthree")) == "two"


def test_a_size_that_failed_is_halved_and_not_tried_again() -> None:
    limit = BatchLimit(64)
    assert limit.fits(64)
    assert not limit.fits(65)
    limit.record_failure(60)
    assert (limit.now, limit.failed) == (30, 60)
    for _ in range(100):
        assert limit.now < 60
        limit.record_fit(limit.now)
    assert limit.now * 1.25 >= 60


def test_a_limit_grows_by_a_quarter_after_four_full_batches_up_to_its_budget() -> None:
    limit = BatchLimit(100)
    limit.record_failure(100)
    sizes = []
    for _ in range(3 * FULL_BATCHES):
        sizes.append(limit.now)
        limit.record_fit(limit.now)
    assert sizes == [50] * 4 + [62] * 4 + [77] * 4
    small = BatchLimit(100)
    small.record_failure(100)
    for _ in range(20):
        small.record_fit(40)  # not full: 50 / 1.25
    assert small.now == 50


def test_a_smaller_failure_lowers_a_limit_that_was_lowered_before() -> None:
    limit = BatchLimit(100)
    limit.record_failure(100)
    limit.record_failure(80)  # a single context above the limit
    assert (limit.now, limit.failed) == (40, 80)
    limit.record_failure(90)
    assert (limit.now, limit.failed) == (40, 80)


def test_a_limit_returns_to_an_earlier_state() -> None:
    limit = BatchLimit(100)
    limit.record_failure(90)
    before = copy.copy(limit)
    limit.record_failure(3)
    limit.forget_since(before)
    assert limit == before
