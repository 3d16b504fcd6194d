"""`icl plan --device 24GB` says what the models need on a GPU and whether they fit."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from experiments.planning.memory_plan import device_bytes
from icl.errors import ConfigError
from icl.models.hf.memory_estimate import GIB
from icl.models.hf.memory_plan import RequestSize
from icl.models.hf.model import HF

ICL = Callable[..., Any]
TINY = """
    name: small
    task: SHAPES
    model: {name: hf, path: tiny}
    grid: {shots: [0, 2], decoding: [greedy, vcd]}
"""


def test_a_plan_for_a_device_prints_the_memory_of_the_model(icl: ICL, grid: Callable[[str], str]) -> None:
    output = icl("plan", grid(TINY), "--device", "24GB")
    assert (output.status, output.err) == (0, "")
    (line,) = (line for line in output.out.splitlines() if line.startswith("memory  "))
    parts = ("weights", "features", "prefill", "a row while rows change", "of 24.0 GiB free", "rows together")
    assert [part for part in parts if part not in line] == []
    assert "memory  " not in icl("plan", "grid.yaml").out


def test_a_plan_for_a_device_that_is_too_small_prints_the_memory_and_a_sentence(
    icl: ICL, grid: Callable[[str], str]
) -> None:
    output = icl("plan", grid(TINY), "--device", "600MB")
    assert output.status == 2
    assert "memory  " in output.out
    assert re.search(r"the weights \(.* GiB, \w+\) do not fit into 0\.6 GiB\. Use `quantize: int8`", output.err)


def test_a_model_without_an_estimate_is_named(icl: ICL, grid: Callable[[str], str]) -> None:
    text = TINY.replace("{name: hf, path: tiny}", "fake-copy").replace(", vcd", "")
    output = icl("plan", grid(text), "--device", "24GB")
    assert output.status == 0
    assert "no estimate; only models of `hf` that are not stored packed have one" in output.out


def test_layers_on_several_devices_are_not_refused() -> None:
    request = RequestSize(1000, 16, 2)
    alone, spread = HF().memory_plan(request, 1e6), HF(device_map="auto").memory_plan(request, 1e6)
    assert alone is not None
    assert spread is not None
    assert alone.problem
    assert (spread.problem, spread.weights) == ("", alone.weights)


def test_the_size_of_a_device_is_read_and_a_mistake_is_a_sentence(icl: ICL, grid: Callable[[str], str]) -> None:
    assert [device_bytes(text) for text in ("24GB", "80 GiB", "40960mb")] == [24 * GIB, 80 * GIB, 40 * GIB]
    for wrong in ("24", "GB", "-1GB", "0GB", "24 TB"):
        with pytest.raises(ConfigError, match="is not the memory of a device"):
            device_bytes(wrong)
    output = icl("plan", grid(TINY), "--device", "big")
    assert (output.status, output.err) == (2, "--device: 'big' is not the memory of a device. Write 24GB or 40960MB.\n")
