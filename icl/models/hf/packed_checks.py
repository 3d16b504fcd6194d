"""Which GPTQ and AWQ checkpoints can be read, and what each of their layers must contain.

Both formats store, for a linear layer, integers of a few bits packed into int32, with a scale and a zero for each group
of inputs and each output (GPTQ: Frantar et al., ICLR 2023; AWQ: Lin et al., MLSys 2024). For a layer with n inputs and
m outputs:

              qweight             qzeros           scales       g_idx
    gptq      [n * bits/32, m]    [g, m*bits/32]   [g, m]       [n], the group of each input (optional)
    awq       [n, m * bits/32]    [g, m*bits/32]   [g, m]       -

Supported are GPTQ in 2, 4 and 8 bits and AWQ in 4 bits in the format `gemm`. GPTQ may have groups of any size, one
group (-1), inputs in any order (`desc_act`), and settings that differ between layers (`dynamic`). Both of its formats
work: `gptq`, whose zeros are stored less one, and `gptq_v2`. The files decide which layers are packed, not the config:
published configs name the excluded modules by old names, or not at all. Other formats (marlin, gemv), 3 bits, AWQ
without zeros and `*.bin` files are not supported. Neither are layers that the architecture stores in one tensor
(experts of a mixture).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
