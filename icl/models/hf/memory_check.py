"""The memory of a checkpoint of the model `hf`, before its weights are downloaded or read."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from icl.errors import ModelError
from icl.models.hf import prequantized
from icl.models.hf.device_memory import device_memory
from icl.models.hf.device_placement import resolve_device, resolve_dtype
from icl.models.hf.image_processing import without_pixel_edits
from icl.models.hf.memory_estimate import CONTEXT_BYTES, ModelShape, model_shape, weights_bytes
from icl.models.hf.memory_needs import (
    MemoryNeeds,
    WeightPrecision,
    gib,
    request_problem,
    weights_problem,
)
from icl.models.hf.memory_plan import MemoryPlan, plan_memory
from icl.models.hf.request_size import RequestSize
from icl.models.hf.tower_memory import TowerPass, tower_sizes

if TYPE_CHECKING:
    from icl.models.hf.model import HF


def checkpoint_plan(hf: "HF", request: RequestSize, device: float) -> MemoryPlan | None:
    """What a checkpoint needs on a GPU of `device` bytes. None if its weights are stored packed.

    Raises:
        ModelError: The config of the checkpoint cannot be read, or lacks a size.
        ImageError: The largest image cannot be read.
    """
    if prequantized.method(hf.checkpoint):
        return None
    plan = plan_memory(
        memory_needs(hf, precision(hf, hf.dtype), request),
        request,
        device,
        token_budget=hf.token_budget,
        max_feature_bytes=None if hf.image_cache_mb is None else hf.image_cache_mb * 2**20,
    )
    return plan if hf.device_map is None else replace(plan, problem="")


def check_memory(hf: "HF", requests: Iterable[RequestSize] = ()) -> None:
    """Raise ModelError if weights and one request do not fit into the free memory of the model's device.

    Nothing is reserved, so that only what cannot fit is an error. Layers that `device_map` spreads are left to
    accelerate, which moves what does not fit to main memory. An architecture whose memory cannot be estimated is not
    checked.

    Args:
        hf: The model, which is not loaded.
        requests: Its largest requests, of which the one with the largest need is checked. None: only the weights.
    """
    import torch

    if hf.device_map is not None or prequantized.method(hf.checkpoint):
        return
    _, place = resolve_device(hf.device)
    memory = device_memory(torch.device(place))
    if memory is None:
        return
    try:
        stored = precision(hf, resolve_dtype(hf.device, None, hf.dtype))
        needs, request = memory_needs(hf, stored, None), None
        if pairs := [(memory_needs(hf, stored, one), one) for one in requests]:
            needs, request = max(pairs, key=lambda pair: pair[0].request(pair[1]))
    except ModelError:  # the memory of this architecture cannot be estimated; the plan says so
        return
    where = "the main memory" if memory.kind == "cpu" else place
    problem = weights_problem(needs, memory.free, where)
    if not problem and request is not None:
        total = gib(needs.weights + needs.request(request))
        problem = request_problem(needs, request, memory.free - needs.weights, f"a device with at least {total} free")
        problem = problem and f"{'in' if memory.kind == 'cpu' else 'on'} {where}, {problem}"
    if problem:
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


def memory_needs(hf: "HF", stored: WeightPrecision, request: RequestSize | None) -> MemoryNeeds:
    """What the checkpoint needs, with a pass of its vision tower over the request's largest image."""
    shape, attention, sizes = _shape(hf), hf.attn_implementation, tower_sizes(hf.checkpoint.config)
    tower = None
    if request is not None and request.largest_image is not None and sizes is not None:
        ((inputs, _),) = hf.pixels.pixels([(without_pixel_edits(request.largest_image), False)])
        if patches := sizes.patches(inputs):
            tokens = request.image_tokens
            tower = TowerPass(sizes, patches, tokens, shape.hidden, stored.element_bytes, attention)
    return MemoryNeeds(shape, stored, attention, tower)


def _shape(hf: "HF") -> ModelShape:
    return model_shape(
        hf.checkpoint.config,
        vision=hf.quantize_vision,
        head=hf.quantize_head,
        trust_remote_code=hf.trust_remote_code,
    )
