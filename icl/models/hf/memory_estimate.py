"""Memory of a run, estimated from the config of a checkpoint alone. No weights are read.

b is the size of an element in bytes, L the layers, H the hidden size, I the inner size, h the heads, g the key-value
heads, d the size of a head, V the vocabulary, t = R T the tokens of a prefill of R rows, and m = R T² if rows are
padded, else 0.

    weights        b an element; nf4 and fp4 0.5625 (double quantization 0.516), int8 1 + 4 for each output row, of the
                   quantized linear layers only
    KV cache       2 L g d b a token
    prefill        above weights and cache: max(2 t d b + max(A, M, N), t H b + R V (b + 4))
                   M = t b (4 H + 3 I) + m
                   A = t b (4 H + 3 h d + 3 g d [+ 2 h d if g < h]) + m (1 + b)
                   N = t (3 H b + 8 H) + m
    decoding row   (prompt + new) KV c + V (b + 12), with c = 2 while rows change: the new cache beside the old
    images         tokens H b

4 H are the embeddings, a layer's input, the residual and the normalized input. A is an upper bound: fused kernels copy
less. Workspaces of kernels come on top, such as those of eager attention and of cuBLAS. Layers with a sliding window or
without a KV cache need less.
"""

from dataclasses import dataclass
from typing import Any

from icl.errors import ModelError

GIB = 2**30
QUANTIZED_BYTES = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""Bytes of a quantized weight, with the float32 scale of each block of 64."""

DOUBLE_QUANTIZED_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
SCALE_BYTES = {"int8": 4}
"""Bytes of the scale of an output row."""

RESERVED_FRACTION = 0.05
"""Part of a device that is left free, for fragments of the allocator."""

CONTEXT_BYTES = 0.6 * GIB
"""Memory of the CUDA context and of loaded kernels."""

COPIES = 2.0
"""KV caches of a row that exist at once while rows change."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a checkpoint that decide its memory.

    Attributes:
        parameters: Number of parameters. Tied weights count once.
        buffers: Number of elements of all buffers.
        quantizable: Weights of the linear layers that a quantization changes.
        quantizable_rows: Output rows of these layers.
        inner: Size of the hidden layer of an MLP.
    """

    parameters: int
    buffers: int
    quantizable: int
    quantizable_rows: int
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class RequestSize:
    """The largest request of a model: tokens of its longest prompt and of its answer, and its branches.

    Attributes:
        images: Number of distinct images of the run, whose features are cached.
    """

    prompt_tokens: int
    new_tokens: int
    branches: int
    images: float = 0


@dataclass(frozen=True)
class MemoryPlan:
    """What a model needs on a device, in bytes, and what fits.

    Attributes:
        precision: Name of the precision of the weights.
        free: Bytes that prefill and rows may use. Negative if the weights do not fit.
        row: Bytes of a decoding row while rows change.
        rows: Rows that fit beside each other.
        problem: Why one request does not fit and what to do; '' if it fits.
    """

    precision: str
    device: float
    weights: float
    features: float
    prefill: float
    row: float
    free: float
    rows: int
    problem: str = ""

    def describe(self) -> str:
        """One line of a plan."""
        return (
            f"weights {_gib(self.weights)} ({self.precision}), features at most {_gib(self.features)}, "
            f"prefill {_gib(self.prefill)}, {self.row / GIB:.2f} GiB a row while rows change; "
            f"{_gib(max(0.0, self.free))} of {_gib(self.device)} free after weights and features: "
            + (f"{self.rows:,} rows a step" if self.rows else "no row fits")
        )


def model_shape(
    config: Any, *, vision: bool = False, head: bool = False, trust_remote_code: bool = False
) -> ModelShape:
    """The shape of a checkpoint, from a model without memory (the meta device).

    Args:
        config: The config of transformers.
        vision: Whether a quantization also changes the linear layers outside the language model.
        head: Whether a quantization also changes the output head.
        trust_remote_code: Whether Python code of the checkpoint may run.

    Raises:
        ModelError: The config lacks a size.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from icl.models.hf.checkpoint import text_config

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    output_head = model.get_output_embeddings()
    scope = list((model if vision else model.get_decoder()).modules())
    linear = [module for module in scope if isinstance(module, torch.nn.Linear) and module is not output_head]
    linear += [output_head] if head and output_head is not None else []
    text = text_config(config)
    try:
        heads = text.num_attention_heads
        return ModelShape(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            buffers=sum(buffer.numel() for buffer in model.buffers()),
            quantizable=sum(module.weight.numel() for module in linear),
            quantizable_rows=sum(module.out_features for module in linear),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            inner=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
        )
    except AttributeError as error:
        raise ModelError(
            f"the memory of a {type(model).__name__} cannot be estimated: {type(text).__name__} has no '{error.name}'. "
            "Leave out `--device`."
        ) from error


def weights_bytes(
    shape: ModelShape, quantize: str = "none", element_bytes: float = 2.0, double_quant: bool = False
) -> float:
    """Bytes of parameters and buffers.

    Args:
        shape: The shape of the checkpoint.
        quantize: none, nf4, fp4 or int8.
        element_bytes: Bytes of an element that is not quantized.
        double_quant: Whether the scales of 4-bit weights are stored in 8 bits.
    """
    if quantize == "none":
        return (shape.parameters + shape.buffers) * element_bytes
    each = DOUBLE_QUANTIZED_BYTES if double_quant and quantize != "int8" else QUANTIZED_BYTES[quantize]
    others = shape.parameters + shape.buffers - shape.quantizable
    return shape.quantizable * each + shape.quantizable_rows * SCALE_BYTES.get(quantize, 0) + others * element_bytes


def kv_bytes_per_token(shape: ModelShape, element_bytes: float = 2.0) -> float:
    """Bytes of the KV cache of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes


def prefill_bytes(
    shape: ModelShape, rows: int, width: int, element_bytes: float = 2.0, *, padded: bool = True
) -> float:
    """Peak of a prefill above weights and KV cache: attention, MLP or norm of a layer, or the head, in bytes.

    Args:
        shape: The shape of the checkpoint.
        rows: Rows of the batch.
        width: Tokens of a row.
        element_bytes: Bytes of an activation.
        padded: Whether rows have padding, so that attention takes a mask of rows x width x width.
    """
    tokens, mask = rows * width, rows * width**2 if padded else 0
    stream, queries, keys = 4 * shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    repeated = 2 * queries if shape.kv_heads < shape.heads else 0
    attention = tokens * element_bytes * (stream + 3 * queries + 3 * keys + repeated) + mask * (1 + element_bytes)
    mlp = tokens * element_bytes * (stream + 3 * shape.inner) + mask
    norm = tokens * (3 * shape.hidden * element_bytes + 8 * shape.hidden) + mask
    rotary = 2 * tokens * shape.head_dim * element_bytes
    head = tokens * shape.hidden * element_bytes + rows * shape.vocabulary * (element_bytes + 4)
    return max(rotary + max(attention, mlp, norm), head)


def row_bytes(shape: ModelShape, tokens: int, element_bytes: float = 2.0, copies: float = 1.0) -> float:
    """Bytes of a decoding row: its KV cache, logits and scores.

    Args:
        shape: The shape of the checkpoint.
        tokens: Tokens of prompt and answer.
        element_bytes: Bytes of an element of the cache and of the logits.
        copies: Caches of the row that exist at once.
    """
    return tokens * kv_bytes_per_token(shape, element_bytes) * copies + shape.vocabulary * (element_bytes + 12)


def feature_bytes(shape: ModelShape, tokens: float, element_bytes: float = 2.0) -> float:
    """Bytes of the features of images that take so many tokens of the prompt."""
    return tokens * shape.hidden * element_bytes


def free_bytes(device: float, weights: float, features: float) -> float:
    """Bytes of a device that prefill and rows may use."""
    return device * (1 - RESERVED_FRACTION) - CONTEXT_BYTES - weights - features


def rows_that_fit(free: float, prefill: float, row: float) -> int:
    """Decoding rows that fit beside a prefill."""
    return max(0, int((free - prefill) // row))


def plan_memory(
    shape: ModelShape,
    request: RequestSize,
    device: float,
    *,
    quantize: str = "none",
    double_quant: bool = False,
    element_bytes: float = 2.0,
    token_budget: int = 8192,
    max_feature_bytes: float = 0.5 * GIB,
    precision: str = "bfloat16",
) -> MemoryPlan:
    """What a checkpoint needs on a device of `device` bytes for its largest request.

    Args:
        shape: The shape of the checkpoint.
        request: The largest request.
        device: Size of the device in bytes.
        quantize: none, nf4, fp4 or int8.
        double_quant: Whether the scales of 4-bit weights are stored in 8 bits.
        element_bytes: Bytes of an element of what is not quantized.
        token_budget: Padded tokens of one prefill.
        max_feature_bytes: Size of the cache of image features.
        precision: Name of the dtype of what is not quantized.
    """
    weights = weights_bytes(shape, quantize, element_bytes, double_quant)
    # an image has no more tokens than the longest prompt
    images = feature_bytes(shape, request.images * request.prompt_tokens, element_bytes)
    features = min(max_feature_bytes, images)
    prefill_rows = max(1, token_budget // max(1, request.prompt_tokens))
    prefill = prefill_bytes(shape, prefill_rows, request.prompt_tokens, element_bytes)
    row = row_bytes(shape, request.prompt_tokens + request.new_tokens, element_bytes, COPIES)
    free = free_bytes(device, weights, features)
    rows = rows_that_fit(free, prefill, row)
    problem = ""
    packed = _gib(weights_bytes(shape, "nf4", element_bytes))
    less = f"`quantize: nf4` (weights {packed}), " if quantize == "none" else ""
    spread = "`device_map: auto` over several devices, or a larger device."
    name = precision if quantize == "none" else quantize
    if free <= 0:
        problem = f"the weights ({_gib(weights)}, {name}) do not fit into {_gib(device)}. Use {less}{spread}"
    elif rows < request.branches:
        problem = (
            f"one request of {request.branches} branches with {request.prompt_tokens:,} tokens needs "
            f"{_gib(prefill + row * request.branches)}, but {_gib(free)} are free after the weights. "
            f"Use {less}fewer shots, {spread}"
        )
    return MemoryPlan(name, device, weights, features, prefill, row, free, rows, problem)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
