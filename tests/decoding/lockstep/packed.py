"""Quantized checkpoints as AutoGPTQ and AutoAWQ write them, built from the definitions of the formats.

Both keep, for each linear layer of the language model, numbers q of four bits (GPTQ of two and eight too), as many in
an int32 as fit, and a scale (and a zero point) for a group of inputs of each output: weight = (q - zero) * scale. GPTQ
packs along the inputs, in order, and stores zeros less one (not in its second format); AWQ packs along the outputs, in
the order of AWQ_ORDER. With `desc_act`, GPTQ's groups are not of neighbors: g_idx tells the group of each input.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PACKED = re.compile(r"(?!.*(vision|visual)).*layers\..*_proj\.weight$")
LEFT_OUT = ("visual", "vision_tower", "multi_modal_projector")
"""Names in published configs of AWQ for layers that are not packed, whatever transformers calls them today."""


@dataclass(frozen=True)
class Format:
    """A packed format. group: number of inputs that share a scale, -1 for all. symmetric: zeros in the middle."""

    method: str
    bits: int = 4
    group: int = 32
    symmetric: bool = True
    desc_act: bool = False
    second: bool = False

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"quant_method": self.method, "bits": self.bits, "group_size": self.group}
        if self.method == "awq":
            return config | {"zero_point": True, "version": "gemm", "modules_to_not_convert": list(LEFT_OUT)}
        named = "gptq_v2" if self.second else "gptq"
        return config | {"desc_act": self.desc_act, "sym": self.symmetric, "checkpoint_format": named}


FORMATS = {"gptq": Format("gptq"), "awq": Format("awq", symmetric=False)}


def made(source: Path, folder: Path, method: str | Format) -> tuple[Path, Path]:
    """Folders of the packed checkpoint and of one with the same weights in full precision."""
    how = FORMATS[method] if isinstance(method, str) else method
    packed, full = folder / how.method, folder / f"{how.method}-full"
    for to in (packed, full):
        shutil.copytree(source, to)
    weights = load_file(source / "model.safetensors")
    small: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not PACKED.match(name):
            small[name] = weight
            continue
        groups = group_of_each(weight.shape[1], how)
        numbers, zero_strength, scales = rounded(weight, groups, how)
        weights[name] = ((numbers - zero_strength[groups]) * scales[groups]).T
        tensors = gptq(numbers, zero_strength, groups, how) if how.method == "gptq" else awq(numbers, zero_strength)
        stem = name.removesuffix("weight")
        small |= {stem + key: value for key, value in (tensors | {"scales": scales.half()}).items()}
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(whole, full / "model.safetensors", {"format": "pt"})
    save_file({name: w.contiguous() for name, w in small.items()}, packed / "model.safetensors", {"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = how.config
    (packed / "config.json").write_text(json.dumps(config))
    return packed, full


def group_of_each(inputs: int, how: Format) -> Tensor:
    groups = torch.arange(inputs) // (inputs if how.group == -1 else how.group)
    return groups[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))] if how.desc_act else groups


def rounded(weight: Tensor, groups: Tensor, how: Format) -> tuple[Tensor, Tensor, Tensor]:
    """Quantizes a weight [out, in] to numbers [in, out], zeros and scales [groups, out]. Scales fit float16."""
    largest = 2**how.bits - 1
    zero_strength, scales = [], []
    for group in range(int(groups.max()) + 1):
        mine = weight.T[groups == group]
        low, high = mine.amin(0), mine.amax(0)
        scale = (mine.abs().amax(0) / (largest // 2) if how.symmetric else (high - low) / largest).half().float()
        middle = torch.full_like(scale, (largest + 1) // 2)
        zero_strength.append(middle if how.symmetric else (-low / scale).round().clamp(1, largest))
        scales.append(scale)
    zero, scale = torch.stack(zero_strength), torch.stack(scales)
    return (weight.T / scale[groups] + zero[groups]).round().clamp(0, largest), zero, scale


def gptq(numbers: Tensor, zero_strength: Tensor, groups: Tensor, how: Format) -> dict[str, Tensor]:
    words = packed(numbers.T, how.bits).T
    return {
        "qweight": words,
        "qzeros": packed(zero_strength if how.second else zero_strength - 1, how.bits),
        "g_idx": groups.to(torch.int32),
    }


def awq(numbers: Tensor, zero_strength: Tensor) -> dict[str, Tensor]:
    return {"qweight": packed(numbers, 4, AWQ_ORDER), "qzeros": packed(zero_strength, 4, AWQ_ORDER)}


def packed(numbers: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[n, m] numbers -> [n, m * bits / 32] int32, the lowest bits first."""
    each = 32 // bits
    parts = numbers.long().reshape(len(numbers), -1, each)[:, :, list(order or range(each))]
    whole = (parts << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)
