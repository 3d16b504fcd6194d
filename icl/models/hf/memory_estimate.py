"""Memory of a run, estimated from the config of a checkpoint alone. No weights are read.

b is the size of an element in bytes, L the layers, H the hidden size, I the inner size, h the heads, g the key-value
heads, d the size of a head, V the vocabulary, t = R T the tokens of a prefill of R rows, and m = R T² the elements of a
mask. A mask exists if rows are padded, and always in eager attention.

    weights        b an element; nf4 and fp4 0.5625 (double quantization 0.516), int8 1 + 4 for each output row, of the
                   quantized linear layers only
    KV cache       2 L g d b a token
    prefill        above weights and cache, the largest moment of a layer, or the head:
                   max(2 t d b + max(A, P, M, N) + mask, t H b + R V (b + 4))
                   A = t b (3 H + max(4 h d, 2 h d + 3 g d))            rotary embeddings of queries, then of keys
                   P = t b (3 H + 2 h d [+ 2 h d]) + m b                sdpa; the bracket if it repeats the key heads
                   P = t b (3 H + h d [+ 2 h d]) + 8 h m                eager: two copies of the scores
                   M = t b (4 H + 3 I) [+ h m b]                        MLP; eager attention keeps its weights
                   N = t (3 H b + 8 H) [+ h m b]                        norm, in float32
                   mask = m of one byte, b in eager attention
    decoding row   (prompt + new) KV c + V (b + 12), with c = 1 + 1 / L while rows change, because a layer of the
                   new cache replaces the old one; 1 + h / (g L) in eager attention with g < h
    images         tokens H b; icl.models.hf.tower_memory has the peak of the vision tower

3 H are the embeddings, the residual and the normalized input. sdpa repeats key heads if g < h and rows are padded.
Workspaces of kernels come on top, such as those of cuBLAS. Layers with a sliding window or without a KV cache need
less.
"""

from dataclasses import dataclass
from typing import Any

from icl.errors import ModelError
from icl.models.hf import conventions

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


@dataclass(frozen=True)
class DecoderSizes:
    """The sizes of a decoder that decide the memory of its activations and of its KV cache.

    Attributes:
        inner: Size of the hidden layer of an MLP.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True)
class ModelShape(DecoderSizes):
    """The sizes of a checkpoint that decide its memory.

    Attributes:
        parameters: Number of parameters. Tied weights count once.
        buffers: Number of elements of all buffers.
        quantizable: Weights of the linear layers that a quantization changes.
        quantizable_rows: Output rows of these layers.
    """

    parameters: int
    buffers: int
    quantizable: int
    quantizable_rows: int


def decoder_shape(config: Any) -> DecoderSizes:
    """The sizes of a checkpoint's decoder. Where layers differ, the largest.

    Raises:
        ModelError: The config lacks a size.
    """
    from icl.models.hf.checkpoint import text_config

    text = text_config(config)
    layer_configs = list(text.per_layer_config) if getattr(text, "is_heterogeneous", False) else [text]

    def size(name: str, default: int = 0) -> int:
        """The largest value of a size that is one number, or one for each layer."""
        values = [getattr(layer, name, None) or default for layer in layer_configs]
        largest = max(max(value) if isinstance(value, list | tuple) else value for value in values)
        if not isinstance(largest, int) or largest < 1:
            raise ModelError(f"{type(text).__name__} has no usable '{name}', from which memory is estimated.")
        return largest

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    return DecoderSizes(
        layers=size("num_hidden_layers"),
        hidden=hidden,
        inner=size("intermediate_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", hidden // heads),
        vocabulary=size("vocab_size"),
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

    with torch.device("meta"):
        model = conventions.auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    output_head = model.get_output_embeddings()
    scope = list((model if vision else model.get_decoder()).modules())
    linear = [module for module in scope if isinstance(module, torch.nn.Linear) and module is not output_head]
    linear += [output_head] if head and output_head is not None else []
    return ModelShape(
        **vars(decoder_shape(config)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        quantizable=sum(module.weight.numel() for module in linear),
        quantizable_rows=sum(module.out_features for module in linear),
    )


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


def kv_bytes_per_token(shape: DecoderSizes, element_bytes: float = 2.0) -> float:
    """Bytes of the KV cache of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes


def prefill_bytes(
    shape: DecoderSizes,
    rows: int,
    width: int,
    element_bytes: float = 2.0,
    *,
    padded: bool = True,
    attention: str = "sdpa",
) -> float:
    """Peak of a prefill above weights and KV cache: attention, MLP or norm of a layer, or the head, in bytes.

    Args:
        shape: The shape of the decoder.
        rows: Rows of the batch.
        width: Tokens of a row.
        element_bytes: Bytes of an activation.
        padded: Whether rows have padding, so that attention takes a mask of rows x width x width.
        attention: Implementation of attention. All but 'eager' count as 'sdpa'.
    """
    tokens, square, is_eager = rows * width, rows * width**2, attention == "eager"
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    repeated = 2 * queries if shape.kv_heads < shape.heads and (padded or is_eager) else 0
    rotary = tokens * element_bytes * (3 * hidden + max(4 * queries, 2 * queries + 3 * keys))
    weights = shape.heads * square * element_bytes if is_eager else 0
    if is_eager:
        mask = square * element_bytes
        product = tokens * element_bytes * (3 * hidden + queries + repeated) + 8 * shape.heads * square
    else:
        mask = square if padded else 0
        product = tokens * element_bytes * (3 * hidden + 2 * queries + repeated) + mask * element_bytes
    mlp = tokens * element_bytes * (4 * hidden + 3 * shape.inner) + weights
    norm = tokens * (3 * hidden * element_bytes + 8 * hidden) + weights
    head = tokens * hidden * element_bytes + rows * shape.vocabulary * (element_bytes + 4)
    return max(2 * tokens * shape.head_dim * element_bytes + max(rotary, product, mlp, norm) + mask, head)


def decode_copies(shape: DecoderSizes, attention: str = "sdpa") -> float:
    """KV caches of a row that exist at once in a decoding step, as a factor of its own cache.

    A layer is copied where rows change. Eager attention copies a layer with its key heads repeated.
    """
    repeated = shape.heads / shape.kv_heads if attention == "eager" and shape.kv_heads < shape.heads else 0
    return 1 + max(1, repeated) / shape.layers


def logits_bytes(shape: DecoderSizes, element_bytes: float = 2.0) -> float:
    """Bytes of the logits of a decoding row, and of its scores in float32."""
    return shape.vocabulary * (element_bytes + 12)


def row_bytes(shape: DecoderSizes, tokens: int, element_bytes: float = 2.0, copies: float = 1.0) -> float:
    """Bytes of a decoding row: its KV cache, logits and scores.

    Args:
        shape: The shape of the decoder.
        tokens: Tokens of prompt and answer.
        element_bytes: Bytes of an element of the cache and of the logits.
        copies: Caches of the row that exist at once.
    """
    return tokens * kv_bytes_per_token(shape, element_bytes) * copies + logits_bytes(shape, element_bytes)


def feature_bytes(shape: DecoderSizes, tokens: float, element_bytes: float = 2.0) -> float:
    """Bytes of the features of images that take so many tokens of the prompt."""
    return tokens * shape.hidden * element_bytes
