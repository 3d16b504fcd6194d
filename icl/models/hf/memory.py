"""Memory of a checkpoint: what it needs, estimated from its config alone, and what that means for a device.

Nothing here reads weights or imports torch at the top. `MemoryNeeds` estimates, `measured_budgets` sizes batches and
caches by the free memory, `plan_memory` describes a device for `icl plan`, and `shortage` says what does not fit. A
batch that runs out of memory in spite of all this is halved (`icl.models.hf.batch_halving`).

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
    images         tokens H b

3 H are the embeddings, the residual and the normalized input. sdpa repeats key heads if g < h and rows are padded. In
the vision tower H, I, h and d = H / h are its own sizes, P are the pixel values of a patch in all channels, t the
patches of all images of a pass, T the patches that attend to each other, and n the tokens of E values of the images:

    tower          t P b + rotary + max(A, M, J)
                   rotary = 2 t d 4         cosines and sines in float32, if the tower has rotary embeddings
                   A = t H (5 b + 6 × 4)    rotary embeddings in float32; 8 t H b without them
                   A = t b 7 H + 8 h t T    eager attention, if that is more: two copies of the scores; with rotary
                                            embeddings the scores of one image
                   M = t b (4 H + a I) [+ h t T b]      MLP; eager attention without rotary embeddings keeps its weights
                   J = t b 2 H + 3 n E b    projection to the tokens

a is 2 if the activation is one operation (GELU), and 3 if it has an intermediate value or a gate. Workspaces of
kernels, for example cuBLAS, come on top. Layers with a sliding window or without a KV cache need less. Towers that pool
patches, keep the states of several layers or pad images need more or less. Tests compare the estimates with the
allocations of real models.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from icl import ModelError, torch
from icl.images import Image
from icl.memory import host_memory
from icl.models.hf import conventions, execution_device, text_config

GIB = 2**30
QUANTIZED_BYTES = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "int8": 1.0}
"""Bytes of a quantized weight, with the float32 scale of each block of 64."""

DOUBLE_QUANTIZED_BYTES, INT8_ROW_SCALE = 0.5 + 1 / 64 + 4 / (64 * 256), 4
SMALLER = ("int8", "nf4")
"""Quantizations that a sentence may recommend, the more exact one first."""

RESERVED_FRACTION = 0.05
"""Part of a device that is left free, for fragments of the allocator."""

CONTEXT_BYTES = 0.6 * GIB
"""Memory of the CUDA context and of loaded kernels."""

TOWER_IMAGES = 16
"""Images of one pass of the vision tower, at most."""

SINGLE_OPERATIONS = ("gelu", "gelu_pytorch_tanh", "relu")
"""Activations without an intermediate value."""

MAX_PREFILL_TOKENS, UNBOUNDED = 8192, 2**62
ROWS_PER_PREFILL = 4
"""Tokens of decoding rows for each token of a prefill, where the memory is not measured."""

FEATURE_FRACTION, PREFILL_FRACTION, PASSING_FRACTION = 1 / 8, 1 / 4, 1 / 8
SCORE_BYTES = 10
"""Bytes of a logit of an option: in the dtype of the model, as float32, and its log-probability."""


@dataclass(frozen=True)
class RequestSize:
    """The largest request of a model: tokens of its longest prompt and of its answer, and its branches.

    Attributes:
        shots: Demonstrations of the longest prompt.
        image_tokens: Tokens of an image, at most. 0: no image.
        images: Number of distinct images of the run. Their features are cached.
        image_uses: Images of all contexts. Each use of an image that is not cached encodes it again.
        largest_image: The image with the most pixels. None: no image.
    """

    prompt_tokens: int
    new_tokens: int
    branches: int
    shots: int = 0
    image_tokens: float = 0
    images: float = 0
    image_uses: float = 0
    largest_image: Image | None = None


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a checkpoint that decide its memory.

    Attributes:
        inner: Size of the hidden layer of an MLP.
        parameters: Number of parameters. Tied weights count once. 0: only the decoder's sizes are known.
        buffers: Number of elements of all buffers.
        quantizable: Weights of the linear layers that a quantization changes.
        quantizable_rows: Output rows of these layers.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int = 0
    buffers: int = 0
    quantizable: int = 0
    quantizable_rows: int = 0


def decoder_shape(config: Any) -> ModelShape:
    """The sizes of a checkpoint's decoder. Where layers differ, the largest.

    Raises:
        ModelError: The config lacks a size.
    """
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
    return ModelShape(
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
    with torch.device("meta"):
        model = conventions.auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    output_head = model.get_output_embeddings()
    scope = list((model if vision else model.get_decoder()).modules())
    linear = [module for module in scope if isinstance(module, torch.nn.Linear) and module is not output_head]
    linear += [output_head] if head and output_head is not None else []
    return replace(
        decoder_shape(config),
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
    elements = shape.parameters + shape.buffers
    if quantize == "none":
        return elements * element_bytes
    each = DOUBLE_QUANTIZED_BYTES if double_quant and quantize != "int8" else QUANTIZED_BYTES[quantize]
    scales = shape.quantizable_rows * INT8_ROW_SCALE if quantize == "int8" else 0
    return shape.quantizable * each + scales + (elements - shape.quantizable) * element_bytes


def kv_bytes_per_token(shape: ModelShape, element_bytes: float = 2.0) -> float:
    """Bytes of the KV cache of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes


def prefill_bytes(
    shape: ModelShape,
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


GRAPH_COPIES = 1.125**3
"""Memory of the KV cache of CUDA graphs: rows, slots and their product are each rounded up by at most an eighth."""


def decode_copies(shape: ModelShape, attention: str = "sdpa", cuda_graphs: bool = False) -> float:
    """KV caches of a row that exist at once in a decoding step, as a factor of its own cache.

    A layer is copied where rows change. Eager attention copies a layer with its key heads repeated. CUDA graphs have
    memory of their own, which is kept while rows change.
    """
    repeated = shape.heads / shape.kv_heads if attention == "eager" and shape.kv_heads < shape.heads else 0
    return 1 + max(1, repeated) / shape.layers + GRAPH_COPIES * cuda_graphs


def logits_bytes(shape: ModelShape, element_bytes: float = 2.0) -> float:
    """Bytes of the logits of a decoding row, and of its scores in float32."""
    return shape.vocabulary * (element_bytes + 12)


def row_bytes(shape: ModelShape, tokens: int, element_bytes: float = 2.0, copies: float = 1.0) -> float:
    """Bytes of a decoding row: its KV cache, logits and scores.

    Args:
        shape: The shape of the decoder.
        tokens: Tokens of prompt and answer.
        element_bytes: Bytes of an element of the cache and of the logits.
        copies: Caches of the row that exist at once.
    """
    return tokens * kv_bytes_per_token(shape, element_bytes) * copies + logits_bytes(shape, element_bytes)


@dataclass(frozen=True)
class TowerPass:
    """A pass of a vision tower over images of equal size, and the sizes of the tower that decide its memory.

    Attributes:
        inner: Size of the hidden layer of an MLP.
        patch_values: Pixel values of a patch in all channels.
        inner_copies: Tensors of the inner size that exist at once in an MLP.
        has_rotary: Whether positions are rotary embeddings.
        max_patches: Maximum number of patches that attend to each other: the patches of a tile. 0: all patches of an
            image.
        patches: Patches of one image.
        tokens: Tokens of the prompt that one image takes. 0: the projection is not counted.
        token_values: Hidden size of the decoder.
        element_bytes: Bytes of an activation.
        attention: Implementation of attention. All but 'eager' count as 'sdpa'.
    """

    hidden: int
    inner: int
    heads: int
    patch_values: int
    inner_copies: int = 3
    has_rotary: bool = False
    max_patches: int = 0
    patches: float = 0
    tokens: float = 0.0
    token_values: int = 0
    element_bytes: float = 2.0
    attention: str = "sdpa"

    def of(self, inputs: Mapping[str, Any]) -> "TowerPass":
        """The pass over an image with these processed inputs. No patches: they have no pixel values of this tower."""
        pixels = inputs.get("pixel_values")
        return replace(self, patches=0 if pixels is None else int(pixels.numel()) // self.patch_values)

    def peak_bytes(self, images: int) -> float:
        """Peak of a pass over so many such images above the weights, in bytes. 0 without patches."""
        count, hidden, size = self.patches * images, self.hidden, self.element_bytes
        mlp = count * size * (4 * hidden + self.inner_copies * self.inner)
        products = count * hidden * (5 * size + 6 * 4 if self.has_rotary else 8 * size)
        if self.attention == "eager":
            scores = self.heads * self.patches * min(self.patches, self.max_patches or self.patches)
            products = max(products, count * size * 7 * hidden + 8 * scores * (1 if self.has_rotary else images))
            mlp += 0 if self.has_rotary else scores * images * size
        projection = count * size * 2 * hidden + 3 * self.tokens * images * self.token_values * size
        angles = 2 * count * hidden / self.heads * 4 if self.has_rotary else 0.0
        return count * self.patch_values * size + angles + max(products, mlp, projection) if count else 0.0

    def largest_bytes(self, limit: float) -> float:
        """Peak of the largest pass within a limit in bytes, or of a pass over one image."""
        return self.peak_bytes(largest_that_fits(lambda images: self.peak_bytes(images) <= limit, TOWER_IMAGES))


def tower_sizes(config: Any) -> TowerPass | None:
    """The sizes of a checkpoint's vision tower. None if its config names them otherwise."""
    vision = getattr(config, "vision_config", None)

    def size(*names: str) -> Any:
        return next((value for name in names if (value := getattr(vision, name, None))), None)

    def side(name: str) -> Any:
        """A size that is one number, or a height and a width."""
        value = size(name)
        return max(value) if isinstance(value, list | tuple) else value

    hidden, heads = size("embed_dim", "hidden_size"), size("num_attention_heads", "num_heads", "attention_heads")
    patch_side, image_side = side("patch_size"), side("image_size")
    if not all(isinstance(value, int) for value in (hidden, heads, patch_side)):
        return None
    rotary = size("rope_parameters") is not None
    return TowerPass(
        hidden,
        int(size("intermediate_size") or (size("mlp_ratio") or 4) * hidden),
        heads,
        (size("num_channels", "in_channels") or 3) * patch_side**2 * (size("temporal_patch_size") or 1),
        inner_copies=2 if size("hidden_act") in SINGLE_OPERATIONS and not rotary else 3,
        has_rotary=rotary,
        max_patches=math.ceil(image_side / patch_side) ** 2 if isinstance(image_side, int) and not rotary else 0,
    )


@dataclass(frozen=True)
class WeightPrecision:
    """How weights and activations are stored, as in the parameters of the model `hf`."""

    dtype: str = "bfloat16"
    element_bytes: float = 2.0
    quantize: str = "none"
    double_quant: bool = False

    @property
    def name(self) -> str:
        return self.dtype if self.quantize == "none" else self.quantize


@dataclass(frozen=True)
class MemoryNeeds:
    """What a checkpoint and its requests need, in bytes.

    Attributes:
        shape: Its sizes.
        precision: How weights and activations are stored.
        attention: Implementation of attention.
        tower: A pass of the vision tower over the largest image. None: it is not counted.
        cuda_graphs: Whether decoding steps are CUDA graphs.
    """

    shape: ModelShape
    precision: WeightPrecision = WeightPrecision()
    attention: str = "sdpa"
    tower: TowerPass | None = None
    cuda_graphs: bool = False

    @property
    def weights(self) -> float:
        stored = self.precision
        return weights_bytes(self.shape, stored.quantize, stored.element_bytes, stored.double_quant)

    def prefill(self, rows: int, tokens: int) -> float:
        """Peak of a prefill above the weights."""
        return prefill_bytes(self.shape, rows, tokens, self.precision.element_bytes, attention=self.attention)

    def row(self, tokens: int) -> float:
        """Bytes of a decoding row with so many tokens of prompt and answer, while rows change."""
        copies = decode_copies(self.shape, self.attention, self.cuda_graphs)
        return row_bytes(self.shape, tokens, self.precision.element_bytes, copies)

    def features(self, tokens: float) -> float:
        """Bytes of the features of images that take so many tokens."""
        return tokens * self.shape.hidden * self.precision.element_bytes

    def request(self, request: RequestSize, prompt_tokens: int | None = None) -> float:
        """Bytes of one request above the weights: rows, image features, and its prefill or a pass of the vision tower.

        Args:
            request: The request.
            prompt_tokens: The length of its prompt, to use instead of the request's.
        """
        tokens = max(1, request.prompt_tokens if prompt_tokens is None else prompt_tokens)
        features = self.features(tokens) if request.image_tokens else 0.0
        image = 0.0 if self.tower is None else self.tower.peak_bytes(1)
        rows = self.row(tokens + request.new_tokens) * request.branches
        return max(self.prefill(1, tokens), image) + features + rows

    def total(self, request: RequestSize | None) -> float:
        """Bytes of the weights and of one request, if any."""
        return self.weights + (0.0 if request is None else self.request(request))


def shortage(needs: MemoryNeeds, request: RequestSize | None, free: float, where: str, larger: str) -> str:
    """Why weights and one request do not fit into `free` bytes, and what to do; '' if they fit.

    Args:
        needs: The needs of the checkpoint.
        request: The largest request. None: only the weights.
        free: Bytes that are free before the weights are loaded.
        where: Names the device.
        larger: Names a device that is large enough.
    """
    weights, tower = needs.weights, needs.tower
    sizes = {name: weights_bytes(needs.shape, name, needs.precision.element_bytes) for name in SMALLER}
    remedies = [f"`quantize: {name}` (weights {gib(size)})" for name, size in sizes.items() if size < 0.95 * weights]
    several = "several devices"
    if weights > free:
        several = several if free < GIB else f"{math.ceil(weights / free)} such devices"
        problem = (
            f"the weights need {gib(weights)} ({needs.precision.name}), and {where} has {gib(max(0.0, free))} free"
        )
    elif request is None or (need := needs.request(request)) <= free - weights:
        return ""
    else:
        rest, prompt = free - weights, request.prompt_tokens
        fitting = largest_that_fits(lambda tokens: needs.request(request, tokens) <= rest, prompt)
        if request.shots and fitting > 1:
            shots = math.floor(request.shots * fitting / prompt)
            remedies.append(f"fewer shots ({fitting:,} tokens fit, about {shots} of {request.shots} shots)")
        elif tower is not None and tower.peak_bytes(1) > rest:
            remedies.append(f"smaller images (the vision tower needs {gib(tower.peak_bytes(1))} for the largest)")
        else:
            remedies.append("fewer shots or branches")
        problem = (
            f"one request of {request.branches} branches with {prompt:,} tokens needs {gib(need)}, and {where} has "
            f"{gib(rest)} free after the weights"
        )
    return f"{problem}. Use {', '.join([*remedies, f'`device_map: auto` over {several}'])}, or {larger}."


def free_shortage(
    needs_of: Callable[[RequestSize | None], MemoryNeeds], requests: Iterable[RequestSize], place: str
) -> str:
    """`shortage` in the memory of a device that is free now, for the request with the largest need.

    '' if the device does not say how much is free, or if the memory of the architecture cannot be estimated.

    Args:
        needs_of: The needs of the checkpoint with the largest image of a request.
        requests: The largest requests. None: only the weights count.
        place: The device, such as 'cuda:1'.
    """
    memory = device_memory(torch.device(place))
    if memory is None:
        return ""
    try:
        pairs: list[tuple[MemoryNeeds, RequestSize | None]] = [(needs_of(one), one) for one in requests]
        needs, request = max(pairs or [(needs_of(None), None)], key=lambda pair: pair[0].total(pair[1]))
    except ModelError:  # the plan says so
        return ""
    need = needs.weights if needs.weights > memory.free else needs.total(request)
    where = "the main memory" if memory.kind == "cpu" else place
    return shortage(needs, request, memory.free, where, f"a device with at least {gib(need)} free")


def gib(size: float) -> str:
    """'1.5 GiB', and '20.0 MiB' for a small size."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a device, in bytes.

    Attributes:
        layer_fraction: Part of the decoder's layers, and so of the KV cache, that the device holds.
    """

    kind: str
    free: float
    total: float
    layer_fraction: float = 1.0


def device_memory(device: "torch.device", layer_fraction: float = 1.0) -> DeviceMemory | None:
    """The memory of a device, or of its slice if it is divided (MIG). None if it does not say."""
    sizes: tuple[float, float] | None = None
    if device.type in ("cuda", "xpu"):
        sizes = getattr(torch, device.type).mem_get_info(device)
    elif device.type == "mps":
        total = float(torch.mps.recommended_max_memory())
        sizes = total - torch.mps.driver_allocated_memory(), total
    elif device.type == "cpu":
        sizes = host_memory()
    return None if sizes is None else DeviceMemory(device.type, *sizes, layer_fraction)


def model_memories(model: Any) -> list[DeviceMemory]:
    """The memory of each device with layers of a loaded model. The KV cache of an offloaded layer is where it runs."""
    places = [execution_device(layer) for layer in getattr(model.get_decoder(), "layers", None) or [model]]
    counts = {place: places.count(place) for place in places}
    memories = [device_memory(place, count / len(places)) for place, count in counts.items()]
    return [memory for memory in memories if memory is not None]


@dataclass(frozen=True)
class MemoryBudgets:
    """Sizes of batches and caches.

    Attributes:
        prefill_tokens: Padded tokens of one prefill.
        row_tokens: Tokens of all rows of a decoding batch, prompts and answers together.
        option_tokens: Tokens of all repeated rows of a forward pass that scores options.
        option_scores: Logits of such a pass.
        feature_bytes: Size of the cache of image features.
        tower_bytes: Peak of one pass of the vision tower.
        row_overhead: What a row needs besides its tokens, in tokens.
    """

    prefill_tokens: int = MAX_PREFILL_TOKENS
    row_tokens: int = ROWS_PER_PREFILL * MAX_PREFILL_TOKENS
    option_tokens: int = ROWS_PER_PREFILL * MAX_PREFILL_TOKENS
    option_scores: int = 2**26
    feature_bytes: int = 512 * 2**20
    tower_bytes: int = UNBOUNDED
    row_overhead: int = 0

    def with_user_settings(self, token_budget: int | None, feature_bytes: int | None) -> "MemoryBudgets":
        """These sizes with those that the user sets."""
        result = self if feature_bytes is None else replace(self, feature_bytes=feature_bytes)
        if token_budget is None:
            return result
        rows = ROWS_PER_PREFILL * token_budget
        return replace(result, prefill_tokens=token_budget, row_tokens=rows, option_tokens=rows, row_overhead=0)


DEFAULT_BUDGETS = MemoryBudgets()


def measured_budgets(
    shape: ModelShape,
    memories: Sequence[DeviceMemory],
    element_bytes: float,
    *,
    attention: str = "sdpa",
    cuda_graphs: bool = False,
    feature_bytes: int | None = None,
) -> MemoryBudgets:
    """Sizes for a loaded model, from the memory that is free after loading.

        usable      free - 5 % of the device
        features    usable / 8
        prefill     as many tokens as one prompt may have within usable / 4, at most 8,192
        passing     max(peak of that prefill, usable / 8): memory of one forward pass
        rows        (usable - features - passing) / bytes of a row
        options     half of `passing` for repeated rows, half for their logits
        images      images of one pass of the vision tower: its peak is at most `passing`

    More than 8,192 tokens make a prefill no faster, because its matrix products then use a whole device. On a CPU the
    sizes are `DEFAULT_BUDGETS`, unless the free memory allows less.

    Args:
        shape: Sizes of the decoder.
        memories: Memory of the devices that hold its layers.
        element_bytes: Bytes of an element of activations and KV cache.
        attention: Implementation of attention.
        cuda_graphs: Whether decoding steps are CUDA graphs.
        feature_bytes: Size of the cache of image features, if the user sets it.
    """
    if not memories:
        return DEFAULT_BUDGETS
    usable = [max(0.0, memory.free - RESERVED_FRACTION * memory.total) for memory in memories]
    least = min(usable)
    features = least * FEATURE_FRACTION if feature_bytes is None else feature_bytes

    def peak(tokens: int) -> float:
        return prefill_bytes(shape, 1, tokens, element_bytes, attention=attention)

    prefill_tokens = largest_that_fits(lambda tokens: peak(tokens) <= PREFILL_FRACTION * least, MAX_PREFILL_TOKENS)
    passing = max(peak(prefill_tokens), PASSING_FRACTION * least)
    token = kv_bytes_per_token(shape, element_bytes)
    decoding_token = token * decode_copies(shape, attention, cuda_graphs)
    row_tokens = min(
        (size - features - passing) / (decoding_token * memory.layer_fraction)
        for size, memory in zip(usable, memories, strict=True)
    )
    budgets = MemoryBudgets(
        prefill_tokens=prefill_tokens,
        row_tokens=max(1, int(row_tokens)),
        option_tokens=max(1, int(passing / 2 / token)),
        option_scores=max(1, int(passing / 2 / SCORE_BYTES)),
        feature_bytes=int(features),
        tower_bytes=int(passing),
        row_overhead=round(logits_bytes(shape, element_bytes) / decoding_token),
    )
    return _at_most(budgets, DEFAULT_BUDGETS) if memories[0].kind == "cpu" else budgets


def _at_most(budgets: MemoryBudgets, bounds: MemoryBudgets) -> MemoryBudgets:
    """The smaller value of each size, with the overhead of a row only where its bound is not the smaller one."""
    smaller = {size.name: min(getattr(budgets, size.name), getattr(bounds, size.name)) for size in fields(budgets)}
    if smaller["row_tokens"] < bounds.row_tokens:
        smaller["row_overhead"] = budgets.row_overhead
    return MemoryBudgets(**smaller)


def largest_that_fits(fits: Callable[[int], bool], bound: int) -> int:
    """The largest number from 1 to `bound` that fits, or 1. Every number below a number that fits must fit."""
    low, high = 1, bound
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True)
class MemoryPlan:
    """What a model needs on a device, in bytes, and what fits.

    Attributes:
        precision: Name of the precision of the weights.
        features: Image features that are cached.
        all_features: Features of all images of the run.
        tower: Peak of a pass of the vision tower. None: the config does not name its sizes, or there is no image.
        free: Bytes after the weights that the toolkit may use. 0 if the weights do not fit.
        need: Size of the smallest device for the weights and one request.
        row: Bytes of a decoding row while rows change.
        rows: Rows of one step together.
        encodings_repeated: Images that are encoded again, because not all features are cached.
        problem: Why one request does not fit and what to do; '' if it fits.
    """

    precision: str
    device: float
    weights: float
    features: float
    all_features: float
    tower: float | None
    prefill: float
    row: float
    free: float
    need: float
    rows: int
    encodings_repeated: float = 0
    problem: str = ""

    def describe(self) -> str:
        """One line of a plan."""
        again = f"; about {self.encodings_repeated:,.0f} images encoded again" if self.encodings_repeated >= 1 else ""
        tower = "not estimated" if self.tower is None else f"{self.tower / GIB:.1f}"
        images = f"features {self.features / GIB:.1f}, vision tower {tower}, " if self.all_features else ""
        return (
            f"weights {gib(self.weights)} ({self.precision}), {images}prefill {self.prefill / GIB:.1f}, "
            f"{self.row / GIB:.2f} a row while rows change; {self.free / GIB:.1f} of {gib(self.device)} free after "
            f"loading: {'does not fit' if self.problem else f'{self.rows:,} rows together{again}'}"
        )


def plan_memory(
    needs: MemoryNeeds,
    request: RequestSize,
    device: float,
    *,
    token_budget: int | None = None,
    max_feature_bytes: int | None = None,
) -> MemoryPlan:
    """What a checkpoint needs on a GPU of `device` bytes for its largest request.

    Args:
        needs: The needs of the checkpoint.
        request: The largest request.
        device: Size of the device in bytes.
        token_budget: Padded tokens of one prefill, if the user sets it.
        max_feature_bytes: Size of the cache of image features, if the user sets it.
    """
    tokens, weights = max(1, request.prompt_tokens), needs.weights
    budgets = measured_budgets(
        needs.shape,
        [DeviceMemory("cuda", device - CONTEXT_BYTES - weights, device)],
        needs.precision.element_bytes,
        attention=needs.attention,
        cuda_graphs=needs.cuda_graphs,
        feature_bytes=max_feature_bytes,
    ).with_user_settings(token_budget, max_feature_bytes)
    all_features = needs.features(request.images * (request.image_tokens or tokens))
    features = min(budgets.feature_bytes, all_features)
    cached = features / all_features if all_features else 1.0
    available = device * (1 - RESERVED_FRACTION) - CONTEXT_BYTES
    need = (CONTEXT_BYTES + needs.total(request)) / (1 - RESERVED_FRACTION)
    where = f"a device of {gib(device)}, less the CUDA context and fragments,"
    return MemoryPlan(
        precision=needs.precision.name,
        device=device,
        weights=weights,
        features=features,
        all_features=all_features,
        tower=None if needs.tower is None else needs.tower.largest_bytes(budgets.tower_bytes),
        prefill=needs.prefill(max(1, budgets.prefill_tokens // tokens), tokens),
        row=needs.row(tokens + request.new_tokens),
        free=max(0.0, available - weights),
        need=need,
        rows=max(request.branches, budgets.row_tokens // (tokens + request.new_tokens + budgets.row_overhead)),
        encodings_repeated=max(0.0, request.image_uses - request.images) * (1 - cached),
        problem=shortage(needs, request, available, where, f"a device of at least {gib(need)}"),
    )


def model_bytes(weights: float, total: float) -> float:
    """Bytes of a GPU of `total` bytes for a model: weights, context, and a quarter of it for batches and features."""
    return weights + CONTEXT_BYTES + total / 4
