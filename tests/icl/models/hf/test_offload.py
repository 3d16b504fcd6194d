"""Layers that `device_map` leaves on the disk: answers equal those of the model in memory, strategies included."""

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
from icl.errors import ModelError
from icl.models.hf import device_placement
from icl.models.hf.device_placement import execution_device
from icl.models.hf.memory import model_memories
from icl.models.hf.model import HF
from icl.types import Generation

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
