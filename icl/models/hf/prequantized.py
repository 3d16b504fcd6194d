"""The quantization that a checkpoint's config declares, and which GPTQ and AWQ checkpoints can be read.

Both formats store, for a linear layer, integers of a few bits packed into int32, with a scale and a zero for each group
of inputs and each output (GPTQ: Frantar et al., ICLR 2023; AWQ: Lin et al., MLSys 2024). For a layer with n inputs and
m outputs:

              qweight             qzeros           scales       g_idx
    gptq      [n * bits/32, m]    [g, m*bits/32]   [g, m]       [n], the group of each input (optional)
    awq       [n, m * bits/32]    [g, m*bits/32]   [g, m]       -

Supported are GPTQ in 2, 4 and 8 bits and AWQ in 4 bits in the format `gemm`. GPTQ may have groups of any size, one
group (-1), inputs in any order (`desc_act`), and settings that differ between layers (`dynamic`). Both of its formats
work: `gptq`, which stores zeros less one, and `gptq_v2`. The files decide which layers are packed, not the config:
published configs name the excluded modules by old names, or not at all. Other formats (marlin, gemv), 3 bits, AWQ
without zeros and `*.bin` files are not supported. Neither are layers that the architecture stores in one tensor
(experts of a mixture).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl import ModelError, huggingface_hub, parse_json
from icl.models.hf import Checkpoint

PACKED = ("awq", "gptq")
"""Formats that this backend reads itself (`icl.models.hf.packed_weights`). transformers needs a separate package for
them.
"""


def method(checkpoint: Checkpoint) -> str | None:
    """Quantization method of the checkpoint, such as 'gptq', 'awq' or 'compressed-tensors'. None if it is not
    quantized.
    """
    return _method_name(quantization_settings(checkpoint.config_dict))


def quantization_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The quantization settings in a config or in its text config. Empty if there are none."""
    text_config = config.get("text_config")
    for part in (config, text_config if isinstance(text_config, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(settings := part.get(key), Mapping) and settings:
                return dict(settings)
    return {}


def comes_as(node: Mapping[str, Any]) -> str | None:
    """`method` of the local checkpoint that a model's config node names by `path`. None if it is not local."""
    path, revision = node.get("path"), node.get("revision")
    if not isinstance(path, str):
        return None
    checkpoint = Checkpoint(path, revision)
    try:
        file = checkpoint.folder / "config.json" if checkpoint.hub is None else _cached(path, revision)
    except ModelError:
        return None
    try:
        config = parse_json(file.read_bytes()) if file else {}
    except ValueError:
        return None
    return _method_name(quantization_settings(config)) if isinstance(config, dict) else None


def note(method: str) -> str:
    """A note for the plan of a run about a quantized checkpoint."""
    if method not in PACKED:
        return f"its checkpoint comes quantized ({method})."
    return (
        f"its checkpoint comes quantized ({method}); the weights stay packed and are unpacked for each product, which "
        "saves memory and takes time."
    )


def _method_name(settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    method = settings.get("quant_method")
    return str(getattr(method, "value", method) or "by an unnamed method")


def _cached(path: str, revision: str | None) -> Path | None:
    file = huggingface_hub.try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(file) if isinstance(file, str) else None


FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}
BITS = {"gptq": (2, 4, 8), "awq": (4,)}
PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class PackedFormat:
    """The format of one packed layer.

    Attributes:
        method: 'gptq' or 'awq'.
        bits: Bits of one number.
        groups: Groups of the layer's inputs.
        lag: What is added to each stored zero.
    """

    method: str
    bits: int
    groups: int
    lag: int


def why_unsupported(settings: Mapping[str, Any]) -> str | None:
    """The reason why a checkpoint with these settings cannot be read, as a clause. None if it can."""
    method = method_of(settings)
    bits = settings.get("bits", settings.get("w_bit"))
    if bits not in BITS[method]:
        supported = " or ".join(map(str, BITS[method]))
        return f"it has {bits} bits a weight, and {method} is read in {supported}"
    if format_of(settings) not in FORMATS[method]:
        return f"its format is {format_of(settings)}, and {method} is read in {' or '.join(FORMATS[method])}"
    if method == "awq" and settings.get("zero_point") is False:
        return "it has no zero points (zero_point: false), which readers of AWQ interpret differently"
    return None


def method_of(settings: Mapping[str, Any]) -> str:
    """'gptq' or 'awq', for a checkpoint in one of these formats."""
    method = settings.get("quant_method")
    return str(getattr(method, "value", method))


def format_of(settings: Mapping[str, Any]) -> str:
    """Name of the format: AutoAWQ writes `version`, AutoGPTQ `checkpoint_format`, GPTQModel both and `format`."""
    method = method_of(settings)
    keys = ("version", "format") if method == "awq" else ("checkpoint_format", "format")
    name = next((settings[key] for key in keys if settings.get(key)), FORMATS[method][0])
    return str(getattr(name, "value", name)).lower()


def packing(
    settings: Mapping[str, Any], inputs: int, outputs: int, shapes: Mapping[str, tuple[int, ...]]
) -> PackedFormat | str:
    """The format of one layer, from the shapes of its parts, or what is wrong with them, as a clause."""
    method = method_of(settings)
    for part in PARTS[:3]:
        if part not in shapes:
            return f"its {part} are missing"
        if len(shapes[part]) != 2:
            return f"its {part} have the shape {_format_shape(shapes[part])}"
    bits = 4 if method == "awq" else 32 * shapes["qweight"][0] // inputs
    if bits not in BITS[method] or (
        bits != settings.get("bits", settings.get("w_bit")) and not settings.get("dynamic")
    ):
        words = _format_shape(shapes["qweight"])
        return f"its qweight of {words} is none of {settings.get('bits')} bits for {inputs} inputs"
    groups = shapes["scales"][0]
    expected: dict[str, tuple[int, ...]] = {
        "qweight": (inputs, outputs * bits // 32),
        "qzeros": (groups, outputs * bits // 32),
    }
    if method == "gptq":
        expected["qweight"] = (inputs * bits // 32, outputs)
    expected |= {"scales": (groups, outputs), "g_idx": (inputs,)}
    for part, shape in shapes.items():
        if shape != expected[part]:
            right = _format_shape(expected[part])
            return f"its {part} have the shape {_format_shape(shape)}, and {right} is that of its layer"
    if groups == 0 or (inputs % groups and "g_idx" not in shapes):
        return f"its {inputs} inputs do not make {groups} groups"
    return PackedFormat(method, bits, groups, int(format_of(settings) == "gptq"))


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
