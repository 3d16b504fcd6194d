"""The memory of a checkpoint of the model `hf`, before its weights are downloaded or read."""

from dataclasses import replace
from typing import TYPE_CHECKING

from icl.errors import ModelError
from icl.models.hf import prequantized
from icl.models.hf.device_memory import device_memory
from icl.models.hf.device_placement import resolve_device, resolve_dtype
from icl.models.hf.memory_estimate import CONTEXT_BYTES, ModelShape, model_shape, weights_bytes
from icl.models.hf.memory_plan import MemoryPlan, RequestSize, WeightPrecision, plan_memory, weights_problem

if TYPE_CHECKING:
    from icl.models.hf.model import HF


def checkpoint_plan(hf: "HF", request: RequestSize, device: float) -> MemoryPlan | None:
    """What a checkpoint needs on a GPU of `device` bytes. None if its weights are stored packed.

    Raises:
        ModelError: The config of the checkpoint cannot be read, or lacks a size.
    """
    if prequantized.method(hf.checkpoint):
        return None
    plan = plan_memory(
        _shape(hf),
        request,
        device,
        precision(hf, hf.dtype),
        attention=hf.attn_implementation,
        token_budget=hf.token_budget,
        max_feature_bytes=None if hf.image_cache_mb is None else hf.image_cache_mb * 2**20,
    )
    return plan if hf.device_map is None else replace(plan, problem="")


def check_weights_fit(hf: "HF") -> None:
    """Raise ModelError if the weights do not fit into the free memory of the model's device.

    Layers that `device_map` spreads are left to accelerate, which moves what does not fit to main memory.
    """
    import torch

    if hf.device_map is not None or prequantized.method(hf.checkpoint):
        return
    _, place = resolve_device(hf.device)
    memory = device_memory(torch.device(place))
    if memory is None:
        return
    try:
        shape = _shape(hf)
    except ModelError:  # the memory of this architecture cannot be estimated; the plan says so
        return
    stored = precision(hf, resolve_dtype(hf.device, None, hf.dtype))
    if problem := weights_problem(shape, stored, memory.free, "the main memory" if memory.kind == "cpu" else place):
        raise ModelError(f"model {hf.path}: {problem}")


def model_bytes(weights: float, total: float) -> float:
    """Bytes of a GPU of `total` bytes for a model: weights, context, and a quarter of it for batches and features."""
    return weights + CONTEXT_BYTES + total / 4


def stored_bytes(hf: "HF") -> float:
    """Bytes of the weights. Packed checkpoints count as if they were not packed."""
    stored = precision(hf, resolve_dtype(hf.device, hf.device_map, hf.dtype))
    return weights_bytes(_shape(hf), stored.quantize, stored.element_bytes, stored.double_quant)


def precision(hf: "HF", dtype: str) -> WeightPrecision:
    """How weights and activations are stored. dtype: name, or 'auto' for that of the checkpoint."""
    import torch

    kind = getattr(torch, dtype) if dtype != "auto" else getattr(hf.checkpoint.config, "dtype", None) or torch.float32
    return WeightPrecision(str(kind).removeprefix("torch."), kind.itemsize, hf.quantize, hf.double_quant)


def _shape(hf: "HF") -> ModelShape:
    return model_shape(
        hf.checkpoint.config,
        vision=hf.quantize_vision,
        head=hf.quantize_head,
        trust_remote_code=hf.trust_remote_code,
    )
