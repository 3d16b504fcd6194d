"""Checkpoints in 4 bits as AutoGPTQ and AutoAWQ write them, made by hand from the formats' definitions.

Both keep, for each linear layer of the language model, four-bit numbers q, eight of them in an int32, and a scale (and
a zero point) for a group of 32 inputs of each output: weight = (q - zero) * scale. GPTQ packs along the inputs, in
order, and stores zeros less one; AWQ packs along the outputs, in the order of AWQ_ORDER.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PLAIN = tuple(range(8))
PACKED = re.compile(r".*language_model.*\.layers\..*_proj\.weight$")
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4, "group_size": GROUP, "desc_act": False, "sym": True, "checkpoint_format": "gptq"},
    "awq": {"bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}


def made(source: Path, folder: Path, method: str) -> tuple[Path, Path]:
    """(the packed checkpoint, one of the very same weights in full precision)."""
    packed, full = folder / method, folder / f"{method}-full"
    for to in (packed, full):
        shutil.copytree(source, to)
    weights = load_file(source / "model.safetensors")
    small: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not PACKED.match(name):
            small[name] = weight
            continue
        numbers, zeros, scales = rounded(weight, symmetric=method == "gptq")
        weights[name] = ((numbers - zeros.repeat_interleave(GROUP, 0)) * scales.repeat_interleave(GROUP, 0)).T
        tensors = gptq(numbers, zeros) if method == "gptq" else awq(numbers, zeros)
        stem = name.removesuffix("weight")
        small |= {stem + key: value for key, value in (tensors | {"scales": scales.half()}).items()}
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(whole, full / "model.safetensors", {"format": "pt"})
    save_file({name: w.contiguous() for name, w in small.items()}, packed / "model.safetensors", {"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, **CONFIGS[method]}
    (packed / "config.json").write_text(json.dumps(config))
    return packed, full


def rounded(weight: Tensor, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of a weight [out, in]: numbers 0 to 15 [in, out], and zeros and scales [in / GROUP, out]; scales fit float16."""
    groups = weight.T.reshape(-1, GROUP, len(weight))
    low, high = groups.amin(1), groups.amax(1)
    scales = groups.abs().amax(1) / 7 if symmetric else (high - low) / 15
    scales = scales.half().float()
    zeros = torch.full_like(scales, 8) if symmetric else (-low / scales).round().clamp(0, 15)
    numbers = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    return numbers.reshape(-1, len(weight)), zeros, scales


def gptq(numbers: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    places = torch.arange(len(numbers), dtype=torch.int32) // GROUP
    return {"qweight": packed(numbers.T, PLAIN).T, "qzeros": packed(zeros - 1, PLAIN), "g_idx": places}


def awq(numbers: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    return {"qweight": packed(numbers, AWQ_ORDER), "qzeros": packed(zeros, AWQ_ORDER)}


def packed(numbers: Tensor, order: tuple[int, ...]) -> Tensor:
    """[n, m] numbers of four bits -> [n, m / 8] int32, the lowest bits first."""
    eights = numbers.long().reshape(len(numbers), -1, 8)[:, :, list(order)]
    whole = (eights << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)
