"""Whether a checkpoint and its largest request fit on a device, before any weights are read."""

import math
from dataclasses import dataclass

from icl.models.hf.device_memory import DeviceMemory
from icl.models.hf.memory_budgets import largest_that_fits, measured_budgets
from icl.models.hf.memory_estimate import (
    CONTEXT_BYTES,
    GIB,
    RESERVED_FRACTION,
    ModelShape,
    decode_copies,
    feature_bytes,
    prefill_bytes,
    row_bytes,
    weights_bytes,
)

SMALLER = ("int8", "nf4")
"""Quantizations that a plan may recommend, the more exact one first."""


@dataclass(frozen=True)
class RequestSize:
    """The largest request of a model: tokens of its longest prompt and of its answer, and its branches.

    Attributes:
        shots: Demonstrations of the longest prompt.
        image_tokens: Tokens of an image, at most. 0: those of the longest prompt.
        images: Number of distinct images of the run, whose features are cached.
        image_uses: Images of all contexts. Each use of an image that is not cached encodes it again.
    """

    prompt_tokens: int
    new_tokens: int
    branches: int
    shots: int = 0
    image_tokens: float = 0
    images: float = 0
    image_uses: float = 0


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
class MemoryPlan:
    """What a model needs on a device, in bytes, and what fits.

    Attributes:
        precision: Name of the precision of the weights.
        features: Image features that are cached.
        all_features: Features of all images of the run.
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
    prefill: float
    row: float
    free: float
    need: float
    rows: int
    encodings_repeated: float = 0
    problem: str = ""

    def describe(self) -> str:
        """One line of a plan."""
        again = f"about {self.encodings_repeated:,.0f} images encoded again" if self.encodings_repeated >= 1 else ""
        return (
            f"weights {_gib(self.weights)} ({self.precision}), features {self.features / GIB:.1f}, prefill "
            f"{self.prefill / GIB:.1f}, {self.row / GIB:.2f} a row while rows change; {self.free / GIB:.1f} of "
            f"{_gib(self.device)} free after loading: "
            + (f"{self.rows:,} rows together" if not self.problem else "does not fit")
            + (f"; {again}" if again and not self.problem else "")
        )


def plan_memory(
    shape: ModelShape,
    request: RequestSize,
    device: float,
    precision: WeightPrecision = WeightPrecision(),
    *,
    attention: str = "sdpa",
    token_budget: int | None = None,
    max_feature_bytes: int | None = None,
) -> MemoryPlan:
    """What a checkpoint needs on a device of `device` bytes for its largest request.

    Args:
        shape: The shape of the checkpoint.
        request: The largest request.
        device: Size of the device in bytes.
        precision: How weights and activations are stored.
        attention: Implementation of attention.
        token_budget: Padded tokens of one prefill, if the user sets it.
        max_feature_bytes: Size of the cache of image features, if the user sets it.
    """
    element, tokens = precision.element_bytes, max(1, request.prompt_tokens)
    weights = weights_bytes(shape, precision.quantize, element, precision.double_quant)
    free = max(0.0, device * (1 - RESERVED_FRACTION) - CONTEXT_BYTES - weights)
    memory = DeviceMemory("cuda", device - CONTEXT_BYTES - weights, device)
    budgets = measured_budgets(
        shape, [memory], element, attention=attention, feature_bytes=max_feature_bytes
    ).with_user_settings(token_budget, max_feature_bytes)

    def prefill(rows: int, width: int) -> float:
        return prefill_bytes(shape, rows, width, element, attention=attention)

    def one_request(width: int) -> float:
        row = row_bytes(shape, width + request.new_tokens, element, decode_copies(shape, attention))
        return prefill(1, width) + row * request.branches

    all_features = feature_bytes(shape, request.images * (request.image_tokens or tokens), element)
    features = min(budgets.feature_bytes, all_features)
    cached = features / all_features if all_features else 1.0
    plan = MemoryPlan(
        precision=precision.name,
        device=device,
        weights=weights,
        features=features,
        all_features=all_features,
        prefill=prefill(max(1, budgets.prefill_tokens // tokens), tokens),
        row=row_bytes(shape, tokens + request.new_tokens, element, decode_copies(shape, attention)),
        free=free,
        need=(weights + CONTEXT_BYTES + one_request(tokens)) / (1 - RESERVED_FRACTION),
        rows=max(request.branches, budgets.row_tokens // (tokens + request.new_tokens + budgets.row_overhead)),
        encodings_repeated=max(0.0, request.image_uses - request.images) * (1 - cached),
    )
    fitting = largest_that_fits(lambda width: one_request(width) <= free, tokens)
    problem = _problem(plan, shape, request, precision, (one_request(tokens), fitting if free else 0))
    return MemoryPlan(**{**vars(plan), "problem": problem})


def weights_problem(shape: ModelShape, precision: WeightPrecision, free: float, where: str) -> str:
    """Why the weights do not fit into `free` bytes and what to do; '' if they fit. where: names the device."""
    weights = weights_bytes(shape, precision.quantize, precision.element_bytes, precision.double_quant)
    if weights <= free:
        return ""
    remedies = [*_quantizations(shape, precision, weights), _several(weights, free)]
    return (
        f"the weights need {_gib(weights)} ({precision.name}), and {where} has {_gib(free)} free. Use "
        f"{', '.join(remedies)}, or a device with at least {_gib(weights)} free."
    )


def _problem(
    plan: MemoryPlan, shape: ModelShape, request: RequestSize, precision: WeightPrecision, sizes: tuple[float, int]
) -> str:
    """The sentence of a plan. sizes: bytes of one request, and tokens of a prompt that fit."""
    need, fitting = sizes
    if plan.free > 0 and need <= plan.free:
        return ""
    remedies = list(_quantizations(shape, precision, plan.weights))
    larger = f"`device_map: auto` over several devices, or a device of at least {_gib(plan.need)}."
    if plan.free <= 0:
        text = f"the weights ({_gib(plan.weights)}, {plan.precision}) do not fit into {_gib(plan.device)}."
        return f"{text} Use {', '.join([*remedies, larger])}"
    if request.shots and fitting > 1:
        shots = math.floor(request.shots * fitting / request.prompt_tokens)
        remedies.append(f"fewer shots ({fitting:,} tokens fit, about {shots} of {request.shots} shots)")
    else:
        remedies.append("fewer shots or branches")
    return (
        f"one request of {request.branches} branches with {request.prompt_tokens:,} tokens needs {_gib(need)}, but "
        f"{_gib(plan.free)} are free after the weights. Use {', '.join([*remedies, larger])}"
    )


def _quantizations(shape: ModelShape, precision: WeightPrecision, weights: float) -> list[str]:
    """Quantizations with smaller weights."""
    sizes = {name: weights_bytes(shape, name, precision.element_bytes) for name in SMALLER}
    return [f"`quantize: {name}` (weights {_gib(size)})" for name, size in sizes.items() if size < 0.95 * weights]


def _several(weights: float, free: float) -> str:
    if free < GIB:
        return "`device_map: auto` over several devices"
    return f"`device_map: auto` over {math.ceil(weights / free)} such devices"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
