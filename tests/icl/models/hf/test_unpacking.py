"""Unpacking of packed words compared with the formats' definitions, by hand and on layers of several blocks."""

import sys
from pathlib import Path

import pytest
import torch

from icl.models.hf.packed_checks import PackedFormat
from icl.models.hf.packed_linear import AT_ONCE, numbers, unpacked

sys.path.insert(0, str(Path(__file__).parents[3] / "decoding" / "lockstep"))
import packed

WORDS = torch.tensor([[0x76543210, -1]], dtype=torch.int32)


def test_the_lowest_bits_of_a_word_are_its_first_number() -> None:
    ones = [15] * 8
    assert numbers(WORDS, 4, 1).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, *ones]]
    assert numbers(WORDS, 4, 0).T.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], ones]
    assert numbers(WORDS, 8, 1).tolist() == [[0x10, 0x32, 0x54, 0x76, 255, 255, 255, 255]]
    assert numbers(WORDS, 2, 1)[0, :6].tolist() == [0, 0, 1, 0, 2, 0]


def test_columns_of_awq_lie_in_its_own_order() -> None:
    unpacked_numbers = numbers(WORDS, 4, 1, interleaved=True)[0, :8].tolist()
    assert [unpacked_numbers[column] for column in (0, 2, 4, 6, 1, 3, 5, 7)] == list(range(8))


@pytest.mark.parametrize("lag", [0, 1])
def test_a_stored_zero_of_fifteen_is_sixteen_in_the_first_format(lag: int) -> None:
    how = PackedFormat("gptq", 4, 1, lag)
    words, zeros = torch.zeros(1, 8, dtype=torch.int32), torch.full((1, 1), -1, dtype=torch.int32)
    assert unpacked(how, words, zeros, torch.ones(1, 8).half()).unique().tolist() == [-15.0 - lag]


@pytest.mark.parametrize("groups", [1, 3, 24])
@pytest.mark.parametrize(
    "how",
    [
        packed.Format("gptq"),
        packed.Format("gptq", bits=8, second=True),
        packed.Format("gptq", bits=2, desc_act=True),
        packed.FORMATS["awq"],
    ],
)
def test_a_layer_of_several_blocks_has_the_weights_that_were_packed(how: packed.Format, groups: int) -> None:
    inputs, outputs = 3 * AT_ONCE, 32
    draw = torch.Generator().manual_seed(groups)
    group = torch.arange(inputs) * groups // inputs
    if how.desc_act:
        group = group[torch.randperm(inputs, generator=draw)]
    q = torch.randint(0, 2**how.bits, (inputs, outputs), generator=draw)
    zeros = torch.randint(1, 2**how.bits, (groups, outputs), generator=draw)
    scales = torch.rand(groups, outputs, generator=draw).half()
    parts = packed.gptq(q, zeros, group, how) if how.method == "gptq" else packed.awq(q, zeros)
    lag = int(how.method == "gptq" and not how.second)
    packed_format = PackedFormat(how.method, how.bits, groups, lag)
    want = (q - zeros[group]) * scales.float()[group]
    g_idx = parts.get("g_idx")
    for index in [g_idx] if how.desc_act else [g_idx, None]:
        got = unpacked(packed_format, parts["qweight"], parts["qzeros"], scales, index)
        assert torch.equal(got, want)
        half = unpacked(packed_format, parts["qweight"], parts["qzeros"], scales, index, dtype=torch.bfloat16)
        assert torch.equal(half, want.bfloat16())
