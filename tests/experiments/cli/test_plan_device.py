"""`icl plan --device 24GB` says what the models need on a GPU and whether they fit."""

import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from experiments.planning.plan_text import device_bytes
from icl.errors import ConfigError
from icl.models.hf import checkpoint
from icl.models.hf.memory import GIB, RequestSize, gib
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
    parts = (
        "weights",
        "features",
        "vision tower 0.",
        "prefill",
        "a row while rows change",
        "of 24.0 GiB free",
        "rows together",
    )
    assert [part for part in parts if part not in line] == []
    assert "memory  " not in icl("plan", "grid.yaml").out


def test_a_plan_for_a_device_that_is_too_small_prints_the_memory_and_a_sentence(
    icl: ICL, grid: Callable[[str], str]
) -> None:
    output = icl("plan", grid(TINY), "--device", "600MB")
    assert output.status == 2
    assert "memory  " in output.out
    assert re.search(
        r"the weights need .* MiB \(\w+\), and a device of 0\.6 GiB, less .* fragments, has 0\.0 MiB free\. Use "
        r"`quantize: int8`",
        output.err,
    )


def test_a_run_for_a_device_that_is_too_small_stops_before_it_begins(
    icl: ICL, grid: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = icl("run", grid(TINY), "--device", "600MB")
    assert output.status == 2
    assert "the weights need" in output.err
    assert not (tmp_path / "runs").exists()


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
    assert [device_bytes(text) for text in ("24TB", "1.5 TiB")] == [24 * 1024 * GIB, 1536 * GIB]
    for wrong in ("", "24", "GB", "-1GB", "0GB", "0TB", "24PB", "²4GB"):
        with pytest.raises(ConfigError, match="is not the memory of a device"):
            device_bytes(wrong)
    for wrong in ("big", ""):  # an empty one is a shell variable that is not set
        output = icl("plan", grid(TINY), "--device", wrong)
        message = f"--device: '{wrong}' is not the memory of a device. Write 24GB, 40960MB or 1.5TB.\n"
        assert (output.status, output.err) == (2, message)


def test_a_judge_model_takes_its_weights_from_the_room_of_the_model(icl: ICL, grid: Callable[[str], str]) -> None:
    def arms(judge: str) -> str:
        return TINY.replace("vcd]", f"{{name: best_of_n, judge_model: {{name: hf, {judge}}}}}]")

    same = icl("plan", grid(arms("path: tiny")), "--device", "24GB").out
    other = icl("plan", grid(arms("path: small")), "--device", "24GB").out
    small = HF(path="small").memory_plan(RequestSize(100, 16, 1), 24 * GIB)
    assert small is not None
    assert "judge models" not in same
    assert f", next to judge models of {gib(small.weights)}: " in other
    tight = icl("plan", grid(arms("path: small")), "--device", f"{(small.weights + 0.62 * GIB) / 2**20:.0f}MB")
    assert tight.status == 2
    assert re.search(r"next to judge models of .*: the weights need .* has \d+\.\d MiB free", tight.err)
    assert icl("plan", grid(TINY), "--device", "800MB").status == 0


def test_a_plan_names_the_device_of_embedders(icl: ICL, grid: Callable[[str], str]) -> None:
    text = TINY.replace("grid: {", "retriever: {name: knn, embedder: {name: encoder}}\n    grid: {")
    room, tight = icl("plan", grid(text), "--device", "24GB"), icl("plan", "grid.yaml", "--device", "2GB")
    assert "rows together; embedder on cuda" in room.out
    assert "rows together; embedder on cpu" in tight.out
    explicit = text.replace("{name: encoder}", "{name: encoder, device: 'cuda:1'}")
    assert "; embedder on cuda:1" in icl("plan", grid(explicit), "--device", "2GB").out


def test_a_plan_counts_images_that_are_encoded_again(icl: ICL, grid: Callable[[str], str]) -> None:
    text = TINY.replace("path: tiny", "path: tiny, image_cache_mb: 0")
    (line,) = (row for row in icl("plan", grid(text), "--device", "24GB").out.splitlines() if "memory  " in row)
    again = re.search(r"about (\d+) images encoded again", line)
    assert again is not None
    cached = icl("plan", grid(TINY), "--device", "24GB")
    assert "encoded again" not in cached.out
    # every use of an image by a context is an encoding, and all images are encoded once in any case
    assert 0 < int(again[1]) < 12 * 3 * 3


def test_the_gpu_of_this_machine_is_planned_for_by_default(
    icl: ICL, grid: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MIG slice has its own memory, not that of the card."""
    monkeypatch.setattr("icl.models.hf.device_placement._may_have_cuda", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (9 * GIB, 10 * GIB))
    output = icl("plan", grid(TINY))
    assert output.status == 0
    assert "of 10.0 GiB free after loading" in output.out


def test_a_plan_needs_no_weights_and_says_that_a_run_does(icl: ICL, grid: Callable[[str], str], tmp_path: Path) -> None:
    folder = tmp_path / "weightless"
    shutil.copytree(checkpoint.TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    file = grid(TINY.replace("path: tiny", f"path: {folder}"))
    plan, run = icl("plan", file, "--device", "24GB"), icl("run", file)
    assert plan.status == 0
    (note,) = (line for line in plan.out.splitlines() if "icl run would stop on this machine: " in line)
    assert "has a config.json but no weights" in note
    assert any(line.startswith("memory  ") and "weights 9." in line for line in plan.out.splitlines())
    assert run.status == 2
    assert "grid.yaml:3: model.path: " in run.err
    assert "no weights" in run.err


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_plan_says_that_vllm_is_missing(icl: ICL, grid: Callable[[str], str]) -> None:
    plan = icl("plan", grid(TINY.replace("name: hf", "name: vllm")))
    assert plan.status == 0
    assert "icl run would stop on this machine: grid.yaml:3: model: the backend 'vllm' needs the package" in plan.out
