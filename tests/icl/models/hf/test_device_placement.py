"""A GPU that cannot be used is a sentence: no driver, an old one, a Slurm job without its GPU, a mistyped setting."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from icl.errors import ConfigError, ModelError
from icl.models.hf import device_placement
from icl.models.hf.device_placement import cuda_problem, execution_device, resolve_device
from icl.models.hf.memory import model_memories
from icl.models.hf.model import HF
from icl.registry import build
from icl.types import Generation


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A torch for CUDA 12.8 that sees no device, and a folder of device files."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(device_placement, "DEVICES", tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", *device_placement.SLURM_GPUS):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def fail(text: str) -> None:
    raise RuntimeError(text)


def test_a_torch_for_the_cpu_says_so(monkeypatch: pytest.MonkeyPatch, cuda_build: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built for the CPU. Install a build for CUDA: https://pytorch.org" in cuda_problem()
    (cuda_build / "nvidia0").touch()
    assert "Install a build for the GPU of this machine" in cuda_problem()


@pytest.mark.usefixtures("cuda_build")
def test_a_missing_driver_and_an_old_one_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "init", lambda: fail("Found no NVIDIA driver on your system. Please check"))
    with pytest.raises(ModelError, match=r"model\.device: 'cuda' is requested, but this machine has no NVIDIA driver"):
        resolve_device("cuda")
    old = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
    monkeypatch.setattr(torch.cuda, "init", lambda: fail(old))
    assert cuda_problem().startswith(
        "the NVIDIA driver is too old: it knows CUDA up to 11.4, and this torch needs CUDA 12.8. Update the driver, or"
    )
    monkeypatch.setattr(torch.cuda, "init", lambda: fail("CUDA error: system not yet initialized\nmore"))
    assert cuda_problem() == "CUDA does not start: CUDA error: system not yet initialized"


def test_an_old_driver_that_nvml_lists_is_reported_before_loading(
    monkeypatch: pytest.MonkeyPatch, cuda_build: Path
) -> None:
    """With the NVML check, `is_available` is true for any driver."""
    monkeypatch.setattr("icl.models.hf.device_placement._may_have_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: fail("driver on your system is too old (found version 11040)"))
    with pytest.raises(ModelError, match=r"model\.device: the NVIDIA driver is too old: .* Or use `device: cpu`\."):
        HF().load()


def test_a_slurm_job_whose_gpu_is_not_visible_is_an_error_and_not_a_run_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda_build: Path
) -> None:
    assert resolve_device("auto") == ("cpu", "cpu")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_GPUS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ModelError, match=r"Slurm gave this job a GPU \(SLURM_JOB_GPUS=2\), but none is visible"):
        resolve_device("auto")
    assert resolve_device("cpu") == ("cpu", "cpu")
    monkeypatch.setenv("SLURM_JOB_GPUS", "")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert resolve_device("auto") == ("cpu", "cpu")
    (cuda_build / "nvidia0").touch()
    with pytest.raises(
        ModelError, match=r"this node has GPUs, but the Slurm job has none\. Ask for one, such as `--gpus"
    ):
        resolve_device("cuda")


@pytest.mark.usefixtures("cuda_build")
def test_hidden_gpus_and_a_number_that_is_too_large_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert cuda_problem() == "CUDA_VISIBLE_DEVICES=-1 hides every GPU from this process. Unset it."
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ModelError, match=r"'cuda:2' is requested, but torch sees 2 CUDA devices\. Use cuda:0 to cuda:1"
    ):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("attn_implementation", "flash_attention2", "flash_attention_2"),
        ("attn_implementation", "spda", "sdpa"),
        ("device_map", "ballanced", "balanced"),
        ("device_map", "Auto", "auto"),
    ],
)
def test_a_mistyped_word_names_the_nearest_one(key: str, value: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: '{value}' is not known\. Did you mean '{nearest}'\?"):
        build("model", {"name": "hf", key: value})


def test_kernels_of_the_hub_and_single_devices_are_accepted() -> None:
    HF(attn_implementation="kernels-community/flash-attn")
    assert [HF(device_map=place).device_map for place in ("cuda:1", "cpu", "balanced")] == ["cuda:1", "cpu", "balanced"]


ARMS = ("greedy", "vcd", "cad", "dola", {"name": "vcd", "sampling": {"temperature": 1.0}})


def answers(model: HF) -> list[Any]:
    """Tokens of generated answers, and scores of options."""
    prompts, arms = tiny_models.prompts()[:3], [parse_arm(arm) for arm in ARMS]
    texts = [DecodingRequest(prompt, arm, max_new_tokens=5) for prompt in prompts for arm in arms]
    options = [DecodingRequest(prompt, arms[1], ("red", "a blue one"), "options") for prompt in prompts]
    results = run_requests(model, [*texts, *options])
    assert all(isinstance(result, Generation) for result in results), results
    return [(result.tokens, dict(result.option_scores)) for result in results]


def placed(model: Any, vision: str) -> dict[str, str]:
    """A device map: every other layer and the output head on the disk, the vision tower where the test wants it."""
    decoder = model.get_decoder()
    text = next(name for name, module in model.named_modules() if module is decoder)
    device_map = {}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        layer = re.match(rf"{re.escape(text)}\.layers\.(\d+)", name)
        if layer is not None:
            device_map[layer[0]] = "disk" if int(layer[1]) % 2 else "cpu"
        elif name == "lm_head":
            device_map[name] = "disk"
        else:
            device_map[name] = "cpu" if name.startswith(text) else vision
    return device_map


@pytest.mark.parametrize(("name", "vision"), [("llava", "disk"), ("qwen2_5_vl", "cpu"), ("idefics3", "cpu")])
def test_answers_with_layers_on_the_disk_equal_those_of_the_model_in_memory(
    name: str, vision: str, folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HF(str(folder_of(name)), device="cpu", dtype="float32")
    expected = answers(whole)
    device_map = placed(whole.engine.runner.model, vision)
    arguments = device_placement.loading_arguments

    def spread(*settings: Any) -> dict[str, Any]:
        return arguments(*settings) | {"device_map": device_map, "offload_folder": str(tmp_path)}

    monkeypatch.setattr(device_placement, "loading_arguments", spread)
    offloaded = HF(str(folder_of(name)), device="cpu", dtype="float32")
    assert answers(offloaded) == expected
    assert offloaded.notes == whole.notes
    assert any(parameter.device.type == "meta" for parameter in offloaded.engine.runner.model.parameters())
    (memory,) = model_memories(offloaded.engine.runner.model)
    assert (memory.kind, memory.layer_fraction) == ("cpu", 1.0), "the cache of an offloaded layer is where it runs"


def test_a_vision_tower_that_cannot_be_offloaded_is_named(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idefics3 reads weights of its tower outside of the modules that accelerate brings back."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = str(folder_of("idefics3"))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    spread = device_placement.loading_arguments("cpu", None, "float32", "auto")
    spread |= {"device_map": placed(model, "disk"), "offload_folder": str(tmp_path)}
    monkeypatch.setattr(device_placement, "loading_arguments", lambda *settings: spread)
    message = (
        r"model\.device_map: .* cannot read an image with model\.vision_model, model\.connector outside the devices"
    )
    with pytest.raises(ModelError, match=message) as error:
        HF(folder, device="cpu", dtype="float32", trust_remote_code=True).load()
    assert "so that only layers of the decoder are offloaded" in str(error.value)


def test_a_module_computes_where_its_weights_are_or_are_brought() -> None:
    layer = torch.nn.Linear(2, 2)
    assert execution_device(torch.nn.Sequential(torch.nn.ReLU(), layer)) == torch.device("cpu")
    away = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ModelError, match="the weights of a Linear are on no device"):
        execution_device(away)
    away._hf_hook = SimpleNamespace(offload=True, execution_device="cuda:1")
    assert execution_device(away) == torch.device("cuda:1")
    away._hf_hook = SimpleNamespace(hooks=[SimpleNamespace(), away._hf_hook])
    assert execution_device(torch.nn.Sequential(away, layer)) == torch.device("cuda:1")
    assert execution_device(torch.nn.Sequential(layer, away)) == torch.device("cpu")
