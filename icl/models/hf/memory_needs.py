"""What a checkpoint and a request of it need, in bytes, and the sentences on what does not fit."""

import math
from dataclasses import dataclass

from icl.models.hf.memory_budgets import largest_that_fits
from icl.models.hf.memory_estimate import (
    GIB,
    ModelShape,
    decode_copies,
    feature_bytes,
    prefill_bytes,
    row_bytes,
    weights_bytes,
)
from icl.models.hf.request_size import RequestSize
from icl.models.hf.tower_memory import TowerPass

SMALLER = ("int8", "nf4")
"""Quantizations that a sentence may recommend, the more exact one first."""


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
    """The needs of a checkpoint.

    Attributes:
        shape: Its sizes.
        precision: How weights and activations are stored.
        attention: Implementation of attention.
        tower: A pass of the vision tower over the largest image. None: it is not counted.
    """

    shape: ModelShape
    precision: WeightPrecision = WeightPrecision()
    attention: str = "sdpa"
    tower: TowerPass | None = None

    @property
    def weights(self) -> float:
        return weights_bytes(
            self.shape, self.precision.quantize, self.precision.element_bytes, self.precision.double_quant
        )

    def prefill(self, rows: int, tokens: int) -> float:
        """Peak of a prefill above the weights."""
        return prefill_bytes(self.shape, rows, tokens, self.precision.element_bytes, attention=self.attention)

    def row(self, tokens: int) -> float:
        """Bytes of a decoding row with so many tokens of prompt and answer, while rows change."""
        return row_bytes(self.shape, tokens, self.precision.element_bytes, decode_copies(self.shape, self.attention))

    def features(self, tokens: float) -> float:
        """Bytes of the features of images that take so many tokens."""
        return feature_bytes(self.shape, tokens, self.precision.element_bytes)

    def request(self, request: RequestSize, prompt_tokens: int | None = None) -> float:
        """Bytes of one request above the weights: rows, image features, and its prefill or a pass of the vision tower.

        Args:
            request: The request.
            prompt_tokens: The length of its prompt, instead of that of the request.
        """
        tokens = max(1, request.prompt_tokens if prompt_tokens is None else prompt_tokens)
        features = self.features(tokens) if request.image_tokens else 0.0
        image = 0.0 if self.tower is None else self.tower.peak_bytes(1)
        rows = self.row(tokens + request.new_tokens) * request.branches
        return max(self.prefill(1, tokens), image) + features + rows


def weights_problem(needs: MemoryNeeds, free: float, where: str) -> str:
    """Why the weights do not fit into `free` bytes and what to do; '' if they fit. where: names the device."""
    if needs.weights <= free:
        return ""
    remedies = [*quantizations(needs), _several(needs.weights, free)]
    return (
        f"the weights need {gib(needs.weights)} ({needs.precision.name}), and {where} has {gib(free)} free. Use "
        f"{', '.join(remedies)}, or a device with at least {gib(needs.weights)} free."
    )


def request_problem(needs: MemoryNeeds, request: RequestSize, free: float, larger: str) -> str:
    """Why one request does not fit beside the weights and what to do; '' if it fits.

    Args:
        needs: The needs of the checkpoint.
        request: The largest request.
        free: Bytes that are free after the weights.
        larger: Names a device that is large enough.
    """
    if (need := needs.request(request)) <= free:
        return ""
    fitting = largest_that_fits(lambda tokens: needs.request(request, tokens) <= free, request.prompt_tokens)
    remedies = quantizations(needs)
    if request.shots and fitting > 1:
        shots = math.floor(request.shots * fitting / request.prompt_tokens)
        remedies.append(f"fewer shots ({fitting:,} tokens fit, about {shots} of {request.shots} shots)")
    elif needs.tower is not None and needs.tower.peak_bytes(1) > free:
        remedies.append(f"smaller images (the vision tower needs {gib(needs.tower.peak_bytes(1))} for the largest)")
    else:
        remedies.append("fewer shots or branches")
    return (
        f"one request of {request.branches} branches with {request.prompt_tokens:,} tokens needs {gib(need)}, but "
        f"{gib(free)} are free after the weights. Use "
        f"{', '.join([*remedies, '`device_map: auto` over several devices'])}, or {larger}."
    )


def quantizations(needs: MemoryNeeds) -> list[str]:
    """Quantizations with smaller weights."""
    sizes = {name: weights_bytes(needs.shape, name, needs.precision.element_bytes) for name in SMALLER}
    return [f"`quantize: {name}` (weights {gib(size)})" for name, size in sizes.items() if size < 0.95 * needs.weights]


def _several(weights: float, free: float) -> str:
    if free < GIB:
        return "`device_map: auto` over several devices"
    return f"`device_map: auto` over {math.ceil(weights / free)} such devices"


def gib(size: float) -> str:
    """'1.5 GiB', and '20.0 MiB' for a small size."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
