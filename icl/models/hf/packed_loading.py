"""Loading of GPTQ and AWQ checkpoints by `from_pretrained` of transformers, into layers that stay packed.

transformers uses gptqmodel for them. That package converts every linear layer that the config does not exclude by its
current name. Published vision-language checkpoints use older names, so their vision towers would get random weights. It
also refuses classes such as InternVL's, and computes in 16 bits. So this module registers its own quantization with
transformers. The conversion table of transformers maps names that have changed since a checkpoint was written.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from icl.errors import ModelError
from icl.models.hf.packed_checks import PARTS, packing
from icl.models.hf.packed_linear import PackedLinear

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
    """A quantizer that puts a PackedLinear in the place of each layer whose packed parts are in the files."""

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
