"""Quantized layers give the product of their dequantized weights, and take the planned memory."""

import re
from collections.abc import Iterator
from copy import copy
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure

MAX_ERROR, MAX_BYTES_ERROR = 1e-2, 0.03
ROWS = 8


def run(bench: Bench) -> Iterator[Figure]:
    """Loads the large checkpoint in nf4 and int8."""
    import torch

    from icl.models.hf.memory import GIB, model_shape, weights_bytes
    from lab.gpu.workload import load_model

    path = bench.model("narrow" if bench.is_quick else "full")
    for name in ("nf4", "int8"):
        # without outlier columns, int8 products depend on 8-bit weights alone up to rounding of the inputs
        model = load_model(bench, path, dtype=bench.dtype, quantize=name, outlier_threshold=0.0)
        planned = weights_bytes(model_shape(model.checkpoint.config), name, torch.bfloat16.itemsize)
        error = abs(model.weights_bytes / planned - 1)
        sizes = f"{model.weights_bytes / GIB:.3f} GiB", f"{planned / GIB:.3f} GiB within {MAX_BYTES_ERROR:.0%}"
        yield Figure(f"{name}: weights", *sizes, error <= MAX_BYTES_ERROR)
        layer = quantized_layer(model.engine.runner.model)
        difference = relative_error(layer, bench.device)
        measured, expected = f"differs by {difference:.1e}", f"at most {MAX_ERROR:g} of the largest product"
        yield Figure(f"{name}: a layer of {layer.in_features} x {layer.out_features}", measured, expected,
                     difference <= MAX_ERROR)  # fmt: skip
        model.unload()


def quantized_layer(model: Any) -> Any:
    """The first layer of the language model that bitsandbytes has quantized."""
    return next(module for module in model.get_decoder().modules() if re.match("Linear[48]bit", type(module).__name__))


def relative_error(layer: Any, device: str) -> float:
    """The largest difference of a layer's product from that of its dequantized weights, over the largest product."""
    import torch

    inputs = torch.randn(ROWS, layer.in_features, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    read = inputs.float()
    if not hasattr(layer.weight, "quant_state"):  # LLM.int8 also rounds each row of inputs to 8 bits
        scale = read.abs().amax(1, keepdim=True) / 127
        read = (read / scale).round() * scale
    with torch.inference_mode():
        product, expected = layer(inputs).float(), read @ dequantized(layer).float().T
    if layer.bias is not None:
        expected = expected + layer.bias.float()
    return float((product - expected).abs().max() / expected.abs().max())


def dequantized(layer: Any) -> Any:
    """The weights [out, in] that a quantized layer stands for."""
    import bitsandbytes as bnb
    import torch

    state = copy(getattr(layer.weight, "quant_state", None))
    if state is not None:  # as one row, because bitsandbytes takes wrong scales on a CPU if blocks cross rows
        shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
        return bnb.functional.dequantize_4bit(layer.weight.data.view(-1, 1), state).view(shape)
    codes, scales = layer.weight.data, layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return codes.float() * (scales.float() / 127)[:, None]


CHECK = BenchCheck(
    6, "nf4 and int8", "as the product of dequantized weights within 1e-2; bytes within 3 %", 2.0, run,
    needs=("hf", "bitsandbytes"),
)  # fmt: skip
