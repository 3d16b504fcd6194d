"""Linear layers whose weights stay packed in memory, and are unpacked for each product with plain operations of torch.

    weight[o, i] = (number[i, o] - zero[group of i, o]) * scale[group of i, o]

An integer of 9 bits times a float16 scale is exact in float32, and is rounded once, to the precision that the layer
computes in: so a layer says what one of the same weights in full precision says, on any device. It takes time: a layer
is unpacked whole for each product, of one row or of thousands.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from icl.models.hf.packed_checks import PackedFormat

PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 256
"""Inputs of a layer that are unpacked together on a CPU: three times as fast as all of a large layer."""


def numbers(words: Tensor, bits: int, along: int, interleaved: bool = False) -> Tensor:
    """[n, m] int32 words -> the numbers in them, 32 / bits as many along that axis, the lowest bits first.

    interleaved: AWQ's order, where the eight columns of a word lie as 0, 2, 4, 6, 1, 3, 5, 7.
    """
    shifts = _shifts(bits, interleaved, words.device)
    found = words.unsqueeze(along + 1) >> (shifts[:, None] if along == 0 else shifts)
    found &= 2**bits - 1
    return found.flatten(along, along + 1)


def unpacked(
    how: PackedFormat,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[inputs, outputs]: the weights that these parts stand for (their shapes: `icl.models.hf.packed_checks`).

    g_idx: the group of each input; without it, each group is as many inputs in a row. A stored zero of 15 and a lag of
    one are 16, as in the kernels for GPUs.
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
    """An nn.Linear whose weight is unpacked whenever it is read, into the precision that the layer had."""

    def __init__(self, how: PackedFormat, like: nn.Linear, bias: bool, ordered: bool, scales: str) -> None:
        """In the place of `like`, its parts to be filled later.

        ordered: whether there is a g_idx. scales: their precision, as safetensors calls it.
        """
        nn.Module.__init__(self)
        self._is_hf_initialized = True  # to transformers: nothing is drawn here. What a file lacks is refused
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
        """[outputs, inputs]: a new tensor each time."""
        return unpacked(self.how, self.qweight, self.qzeros, self.scales, self.g_idx, dtype=self.dtype).T

    def settle(self) -> str | None:
        """What is wrong with the numbers that were read, as half a sentence. Forgets a g_idx that says nothing."""
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
    """Inputs that are unpacked at once, in whole groups and words: on a CPU as many as stay in its cache."""
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
