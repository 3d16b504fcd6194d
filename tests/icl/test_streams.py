"""Tests of random streams."""

import subprocess
import sys

import numpy as np
import pytest

from icl.streams import StreamKey, stream


def draws(seed: int = 0, query: str = "q", factor: str = "demos", n: int = 64) -> list[int]:
    return StreamKey(seed, query).numpy(factor).integers(0, 2**32, n).tolist()


def test_a_stream_depends_on_its_three_keys_and_nothing_else():
    first = draws()
    np.random.default_rng(3).random(10)
    assert draws() == first == stream(0, "q", "demos").integers(0, 2**32, 64).tolist()
    assert len({tuple(draws(**change)) for change in ({}, {"seed": 1}, {"query": "r"}, {"factor": "order"})}) == 4


def test_keys_do_not_run_into_one_another():
    numbers = {StreamKey(seed, query).number(factor) for seed, query, factor in
               [(1, "1", "a"), (11, "", "a"), (1, "1a", ""), (1, "", "1a"), (-1, "1", "a")]}  # fmt: skip
    assert len(numbers) == 5


def test_another_process_draws_the_same_numbers():
    script = "from icl.streams import stream; print(stream(7, 'q-é', 'f').integers(0, 2**32, 8).tolist())"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(draws(7, "q-é", "f", 8))


def test_numbers_are_pinned():
    """A change of these changes every run ever made."""
    assert StreamKey(0, "q").number("demos") == 3319838986261990654
    assert draws(n=3) == [4284997485, 2385052386, 762557805]
    assert StreamKey() == StreamKey(0, "")
    assert StreamKey(0, "q").torch("noise").initial_seed() == 4021590504617424025


@pytest.mark.parametrize("bits", [1, 8, 63, 64, 128, 256])
def test_a_number_has_its_bits_and_uses_all_of_them(bits):
    numbers = [StreamKey(0, str(i)).number("f", bits) for i in range(200)]
    assert all(0 <= n < 2**bits for n in numbers)
    assert any(n >> (bits - 1) for n in numbers)
    assert not all(n >> (bits - 1) for n in numbers)


def test_torch_streams_are_keyed_alike():
    import torch

    def normal(key, factor):
        return torch.randn(4, generator=key.torch(factor)).tolist()

    assert normal(StreamKey(0, "q"), "noise") == normal(StreamKey(0, "q"), "noise")
    assert normal(StreamKey(0, "q"), "noise") != normal(StreamKey(0, "q"), "other")
