"""Linear layers whose weights stay packed in memory. Plain torch operations unpack them for each product.

    weight[o, i] = (number[i, o] - zero[group of i, o]) * scale[group of i, o]

The product of a 9-bit integer and a float16 scale is exact in float32. It is rounded once, to the layer's compute
precision. So a layer returns what a layer with the same weights in full precision returns, on any device. This takes
time: each product unpacks the whole layer, for one row or for thousands.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from icl.models.hf.packed_checks import PackedFormat

PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 256
"""Inputs of a layer that a CPU unpacks together: three times as fast as a whole large layer at once."""


def numbers(words: Tensor, bits: int, along: int, interleaved: bool = False) -> Tensor:
    """Unpack [n, m] int32 words along one axis into 32 / bits times as many numbers, the lowest bits first.

    Args:
        words: The packed words.
        bits: Bits of one number.
        along: The axis to unpack along.
        interleaved: Whether the order is that of AWQ: 0, 2, 4, 6, 1, 3, 5, 7 within a word.
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
    """The weights [inputs, outputs] of packed parts, whose shapes are those of `icl.models.hf.packed_checks`.

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
    """An nn.Linear whose weight is unpacked at each access, into the precision of the original layer."""

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
