"""Loading of GPTQ and AWQ checkpoints by `from_pretrained` of transformers, into layers that stay packed.

transformers uses gptqmodel for them. That package converts every linear layer that the config does not exclude by its
current name. Published vision-language checkpoints use older names, so their vision towers would get random weights. It
also refuses classes such as InternVL's, and computes in 16 bits. So this module registers its own quantization with
transformers. The conversion table of transformers maps names that have changed since a checkpoint was written.

Plain torch operations unpack the weights for each product:

    weight[o, i] = (number[i, o] - zero[group of i, o]) * scale[group of i, o]

The product of a 9-bit integer and a float16 scale is exact in float32. It is rounded once, to the layer's compute
precision. So a layer returns what a layer with the same weights in full precision returns, on any device. This takes
time: each product unpacks the whole layer, for one row or for thousands.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from icl.errors import ModelError
from icl.models.hf.prequantized import PARTS, PackedFormat, packing

NAME = "packed_by_mm_icl"


@dataclass
class PackedTensors:
    """A packed layer in the files: shapes of its parts, precision of its scales, and whether it has a bias."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scales: str = ""
    bias: bool = False


def config(checkpoint: Any, settings: Mapping[str, Any]) -> Any:
    """A copy of the checkpoint's config for `from_pretrained`. settings: its quantization settings."""
    own = deepcopy(checkpoint.config)
    own.quantization_config = {"quant_method": NAME, "path": checkpoint.path, "settings": dict(settings)}
    return own


@register_quantization_config(NAME)
class PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """Quantization config of packed checkpoints.

    Attributes:
        settings: The checkpoint's own quantization settings.
        path: The checkpoint, for error messages.
    """

    exact = True  # a row in float32 is the same in any batch

    def __init__(self, settings: dict[str, Any], path: str, quant_method: str = NAME) -> None:
        self.quant_method, self.settings, self.path = quant_method, settings, path


@register_quantizer(NAME)
class PackedQuantizer(HfQuantizer):  # type: ignore[misc]
    """A quantizer that replaces a layer with a PackedLinear if the files contain its packed parts."""

    requires_calibration = True

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        stored = _read([] if checkpoint_files is None else checkpoint_files)
        if not stored:
            raise self._error("none of its *.safetensors contains a packed weight (qweight)")
        for (stem, parts), name in zip(stored.items(), _renamed(model, list(stored)), strict=True):
            layer = model.get_submodule(name) if name else None
            if type(layer) is not nn.Linear:
                raise self._error(
                    f"{stem} is packed, and {type(model).__name__} has no linear layer of that name, or keeps it with "
                    "others in one tensor"
                )
            how = packing(self.quantization_config.settings, layer.in_features, layer.out_features, parts.shapes)
            if isinstance(how, str):
                raise self._error(f"{stem} cannot be read: {how}")
            with torch.device("meta"):
                biased, ordered = parts.bias or layer.bias is not None, "g_idx" in parts.shapes
                model.set_submodule(name, PackedLinear(how, layer, biased, ordered, parts.scales))

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, layer in model.named_modules():
            if not isinstance(layer, PackedLinear) or layer.scales.is_meta:
                continue
            if wrong := layer.settle():
                raise self._error(f"{name} cannot be read: {wrong}")
        return model

    def _error(self, what: str) -> ModelError:
        method = self.quantization_config.settings.get("quant_method")
        return ModelError(
            f"model.path: {self.quantization_config.path} is quantized ({method}), and {what}. Its files are damaged, "
            "or of another model: fetch them again, or use another checkpoint."
        )

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def _read(files: Sequence[str]) -> dict[str, PackedTensors]:
    """Every packed layer, by its name in the files."""
    layers: dict[str, PackedTensors] = defaultdict(PackedTensors)
    for file in files:
        if not str(file).endswith(".safetensors"):
            continue
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                stem, _, part = name.rpartition(".")
                if part in PARTS:
                    tensor = opened.get_slice(name)
                    layers[stem].shapes[part] = tuple(tensor.get_shape())
                    layers[stem].scales = tensor.get_dtype() if part == "scales" else layers[stem].scales
                elif part == "bias":
                    layers[stem].bias = True
    return {stem: parts for stem, parts in layers.items() if {"qweight", "qzeros"} & set(parts.shapes)}


def _renamed(model: Any, stems: Sequence[str]) -> list[str]:
    """Names in the model of layers in the files. '' if the model has no such layer, or stores several layers in one
    tensor.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    own = model.state_dict()
    names = [
        rename_source_key(f"{stem}.weight", renamings, converters, model.base_model_prefix, own)[0] for stem in stems
    ]
    return [name.removesuffix(".weight") if name in own and name.endswith(".weight") else "" for name in names]


PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 256
"""Inputs of a layer that a CPU unpacks together: three times as fast as a whole large layer at once."""


def numbers(words: Tensor, bits: int, along: int, interleaved: bool = False) -> Tensor:
    """Unpack [n, m] int32 words along one axis into 32 / bits times as many numbers, the lowest bits first.

    Args:
        words: The packed words.
        bits: Bits of one number.
        along: The axis to unpack along.
        interleaved: Whether the order is AWQ's: 0, 2, 4, 6, 1, 3, 5, 7 within a word.
    """
    shifts = _shifts(bits, interleaved, words.device)
    values = words.unsqueeze(along + 1) >> (shifts[:, None] if along == 0 else shifts)
    values &= 2**bits - 1
    return values.flatten(along, along + 1)


def unpacked(
    how: PackedFormat,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weights [inputs, outputs] of packed parts. `icl.models.hf.prequantized` lists the parts' shapes.

    Without `g_idx`, the groups are consecutive inputs of equal number. A stored zero of 15 with a lag of one means 16,
    as in the GPU kernels.
    """
    awq = how.method == "awq"
    in_a_word = 1 if awq else 32 // how.bits
    inputs, outputs = len(qweight) * in_a_word, scales.shape[1]
    zeros, scales = numbers(qzeros, how.bits, 1, awq) + how.lag, scales.detach().float()
    weights = torch.empty(inputs, outputs, dtype=dtype, device=qweight.device)
    size = 1 if g_idx is not None else inputs // how.groups
    step = _step(inputs, size, in_a_word, qweight.device)
    for first in range(0, inputs, step):
        some = numbers(qweight[first // in_a_word : (first + step) // in_a_word], how.bits, 1 if awq else 0, awq)
        some = some.view(-1, size, outputs)
        groups = slice(first // size, (first + step) // size) if g_idx is None else g_idx[first : first + step]
        some -= zeros[groups].unsqueeze(1)
        torch.mul(some, scales[groups].unsqueeze(1), out=weights[first : first + step].view(-1, size, outputs))
    return weights


class PackedLinear(nn.Linear):
    """An nn.Linear that unpacks its weight at each access, into the precision of the original layer."""

    def __init__(self, how: PackedFormat, like: nn.Linear, bias: bool, ordered: bool, scales: str) -> None:
        """A layer in place of `like`. Its parts are filled later.

        Args:
            how: The packed format.
            like: The layer to replace.
            bias: Whether it has a bias.
            ordered: Whether it has a g_idx.
            scales: Precision of the scales, as safetensors names it.
        """
        nn.Module.__init__(self)
        self._is_hf_initialized = True  # transformers must not initialize it
        inputs, outputs = like.in_features, like.out_features
        self.how, self.in_features, self.out_features, self.dtype = how, inputs, outputs, like.weight.dtype
        few = how.bits / 32
        words = (inputs, int(outputs * few)) if how.method == "awq" else (int(inputs * few), outputs)
        self.qweight = _part(words, torch.int32)
        self.qzeros = _part((how.groups, int(outputs * few)), torch.int32)
        self.scales = _part((how.groups, outputs), PRECISIONS.get(scales, torch.float32))
        self.g_idx = _part((inputs,), torch.int32) if ordered else None
        self.bias = _part((outputs,), self.dtype) if bias else None  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[outputs, inputs], a new tensor at each access."""
        return unpacked(self.how, self.qweight, self.qzeros, self.scales, self.g_idx, dtype=self.dtype).T

    def settle(self) -> str | None:
        """What is wrong with the loaded numbers, as a clause, or None. Drops a g_idx that equals the default order."""
        if not bool(self.scales.isfinite().all()):
            return "some of its scales are not finite"
        if self.g_idx is None:
            return None
        if not 0 <= int(self.g_idx.min()) <= int(self.g_idx.max()) < self.how.groups:
            return f"its g_idx names groups beyond its {self.how.groups}"
        plain = torch.arange(self.in_features, device=self.g_idx.device) * self.how.groups // self.in_features
        if self.in_features % self.how.groups == 0 and torch.equal(self.g_idx.long(), plain):
            self.g_idx = None
        return None


def _step(inputs: int, size: int, in_a_word: int, device: torch.device) -> int:
    """Inputs to unpack at once, in whole groups and words. On a CPU, as many as fit into its cache."""
    if device.type != "cpu" or (size % in_a_word and size != 1):
        return inputs
    return max(size, AT_ONCE // size * size)


@lru_cache
def _shifts(bits: int, interleaved: bool, device: torch.device) -> Tensor:
    places = torch.arange(32 // bits, dtype=torch.int32)
    if interleaved:
        places = places % 2 * 4 + places // 2
    return (places * bits).to(device)


def _part(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
