"""Which checkpoints of GPTQ and AWQ can be read here, and what each of their layers must hold.

Both keep, for a linear layer, numbers of a few bits, packed into int32, with a scale and a zero for a group of inputs
of each output (GPTQ: Frantar et al., ICLR 2023; AWQ: Lin et al., MLSys 2024). Of a layer with n inputs and m outputs:

              qweight             qzeros           scales       g_idx
    gptq      [n * bits/32, m]    [g, m*bits/32]   [g, m]       [n], the group of each input (optional)
    awq       [n, m * bits/32]    [g, m*bits/32]   [g, m]       -

Read are GPTQ in 2, 4 and 8 bits, with groups of any size, one group (-1), inputs in any order (`desc_act`) and
settings that differ between layers (`dynamic`), in both its formats (`gptq`, whose zeros are stored less one, and
`gptq_v2`); and AWQ in 4 bits, in the format `gemm`. Which layers are packed is read off the files and not off the
config: published configs name what is left out by the modules' old names, or not at all. Refused are other formats
(marlin, gemv) and bits (3), AWQ without zeros, layers that the architecture keeps in one tensor (a mixture's experts),
and `*.bin` files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}
BITS = {"gptq": (2, 4, 8), "awq": (4,)}
PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class PackedFormat:
    """method: gptq or awq. bits: of one number. groups: of a layer's inputs. lag: what each zero is stored less by."""

    method: str
    bits: int
    groups: int
    lag: int


def unread(told: Mapping[str, Any]) -> str | None:
    """Why a checkpoint whose config says this cannot be read, as half a sentence; None where it can."""
    method = method_of(told)
    bits = told.get("bits", told.get("w_bit"))
    if bits not in BITS[method]:
        known = " or ".join(map(str, BITS[method]))
        return f"it has {bits} bits a weight, and {method} is read in {known}"
    if format_of(told) not in FORMATS[method]:
        return f"its format is {format_of(told)}, and {method} is read in {' or '.join(FORMATS[method])}"
    if method == "awq" and told.get("zero_point") is False:
        return "it has no zero points (zero_point: false), which no reader of AWQ agrees on"
    return None


def method_of(told: Mapping[str, Any]) -> str:
    """'gptq' or 'awq', of a checkpoint that is one of them."""
    named = told.get("quant_method")
    return str(getattr(named, "value", named))


def format_of(told: Mapping[str, Any]) -> str:
    """As the writers call it: AutoAWQ `version`, AutoGPTQ `checkpoint_format`, GPTQModel both and `format`."""
    method = method_of(told)
    keys = ("version", "format") if method == "awq" else ("checkpoint_format", "format")
    named = next((told[key] for key in keys if told.get(key)), FORMATS[method][0])
    return str(getattr(named, "value", named)).lower()


def packing(
    told: Mapping[str, Any], inputs: int, outputs: int, shapes: Mapping[str, tuple[int, ...]]
) -> PackedFormat | str:
    """How one layer is packed, from the shapes of its parts; or what is wrong with them, as half a sentence."""
    method = method_of(told)
    for part in PARTS[:3]:
        if part not in shapes:
            return f"its {part} are missing"
        if len(shapes[part]) != 2:
            return f"its {part} have the shape {_told(shapes[part])}"
    bits = 4 if method == "awq" else 32 * shapes["qweight"][0] // inputs
    if bits not in BITS[method] or (bits != told.get("bits", told.get("w_bit")) and not told.get("dynamic")):
        return f"its qweight of {_told(shapes['qweight'])} is none of {told.get('bits')} bits for {inputs} inputs"
    groups = shapes["scales"][0]
    whole: dict[str, tuple[int, ...]] = {
        "qweight": (inputs, outputs * bits // 32),
        "qzeros": (groups, outputs * bits // 32),
    }
    if method == "gptq":
        whole["qweight"] = (inputs * bits // 32, outputs)
    whole |= {"scales": (groups, outputs), "g_idx": (inputs,)}
    for part, shape in shapes.items():
        if shape != whole[part]:
            return f"its {part} have the shape {_told(shape)}, and {_told(whole[part])} is that of its layer"
    if groups == 0 or (inputs % groups and "g_idx" not in shapes):
        return f"its {inputs} inputs do not make {groups} groups"
    return PackedFormat(method, bits, groups, int(format_of(told) == "gptq"))


def _told(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
