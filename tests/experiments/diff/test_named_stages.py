"""Differences that are put into one side are named at their stage, and equal sides have none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.diff.comparison import Parting, compare, verdict
from experiments.diff.recording import Side
from icl.models.hf.checkpoint import TINY
from icl.models.hf.model import HF
from icl.models.tracing import Stage
from tests.experiments.diff.conftest import side


def parted(a: Side, b: Side) -> Parting:
    return verdict(a, b, compare(a, b)[1])


def checkpoint(folder: Path, **files: object) -> Path:
    """A copy of the shipped checkpoint with other files."""
    copy = shutil.copytree(TINY, folder / "checkpoint")
    for name, text in files.items():
        (copy / name.replace("__", ".")).write_text(text if isinstance(text, str) else json.dumps(text))
    return copy


def test_equal_sides_have_no_difference():
    result = parted(side("hf"), side("model.token_budget=64"))
    assert result.stage is None
    assert result.sentence == "No difference beyond numerical noise."


@pytest.mark.parametrize(
    ("word", "prompt", "stage", "cause"),
    [
        ("model.dtype=bfloat16", "'text'", Stage.FIRST, "dtype is float32 in A and bfloat16 in B"),
        ("model.quantize=int8", "'text'", Stage.FIRST, "quantize is none in A and int8 in B"),
        ("model.quantize=nf4", "'text'", Stage.FIRST, "quantize is none in A and nf4 in B"),
        ("model.image_processor={size: {longest_edge: 48}}", "'exact'", Stage.PIXELS, "resize"),
        ("model.image_processor={resample: 0}", "'large'", Stage.PIXELS, "resample is 1 in A and 0 in B"),
        ("model.image_processor={image_mean: [0.4, 0.4, 0.4]}", "'gray'", Stage.PIXELS, "normalization"),
        ("composer={name: chat, system: Be brief.}", "'query", Stage.PROMPT, "the system turn"),
        ("order=as_retrieved", "'query", Stage.PROMPT, "order of images"),
        ("shots=1", "'query", Stage.PROMPT, "the composer or the shots"),
    ],
)
def test_a_setting_of_the_study_is_named(word, prompt, stage, cause):
    result = parted(side("hf"), side(word))
    assert (result.prompt.startswith(prompt), result.stage) == (True, stage), result.sentence
    assert cause in "; ".join(result.causes)


def test_another_template_is_named(tmp_path):
    template = (TINY / "chat_template.jinja").read_text()
    other = checkpoint(tmp_path, chat_template__jinja=template.replace("<q>", "<q> "))
    result = parted(side("hf"), side(f"model.path={other}"))
    assert (result.prompt, result.stage) == ("'text'", Stage.TEXT)
    assert "from character 3 on: 'What is in" in result.text
    assert any(cause.startswith("chat template is ") for cause in result.causes)


def test_two_checkpoints_of_one_size_are_named(tmp_path):
    other = checkpoint(tmp_path)
    weights = load_file(other / "model.safetensors")
    save_file({name: 1.01 * value for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    result = parted(side("hf"), side(f"model.path={other}"))
    assert result.stage is Stage.FIRST
    assert result.causes[0].startswith("two different checkpoints of one size: digest of weights ")


def test_an_adapter_is_named(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    made = peft.get_peft_model(HF().checkpoint.weights(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    draw = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3, generator=draw)
    made.save_pretrained(tmp_path)
    result = parted(side("hf"), side(f"model.adapter={tmp_path}"))
    assert (result.prompt, result.stage) == ("'text'", Stage.FIRST), result.sentence
    assert f"adapter is none in A and {tmp_path}" in result.causes[0]
    merged = side(f"model.adapter={tmp_path} model.merge=true")
    assert parted(side(f"model.adapter={tmp_path}"), merged).stage is None


@pytest.mark.parametrize(
    ("fault", "prompt", "stage", "cause"),
    [
        ("thumbnail", "'exact'", Stage.FIRST, "resize"),
        ("channels_exchanged", "'red'", Stage.FIRST, "BGR"),
        ("all_dropped", "'gray'", Stage.IDS, "image is dropped"),
        ("last_only", "'two'", Stage.IDS, "image that is dropped"),
        ("rotated", "'two'", Stage.FIRST, "order of images"),
        ("reversed_from_3", "'turns'", Stage.FIRST, "order of images"),
        ("images_first", "'between'", Stage.FIRST, "order of texts and images"),
        ("system_dropped", "'system'", Stage.IDS, "system turn"),
        ("alpha_black", "'alpha'", Stage.FIRST, "transparency"),
        ("never_greedy", "'text'", Stage.TOKENS, "not greedy"),
    ],
)
def test_a_fault_of_a_server_is_named_although_its_insides_are_hidden(server, fault, prompt, stage, cause):
    result = parted(side(server()), side(server(fault)))
    assert (result.prompt, result.stage) == (prompt, stage), result.sentence
    assert cause in "; ".join(result.causes)


def test_a_server_equals_itself_also_with_noise(server):
    assert parted(side(server()), side(server("none"))).stage is None
    assert parted(side(server(noise=0.01)), side(server(noise=0.01))).stage is None


def test_a_server_without_log_probabilities_is_compared_by_answers(server):
    silent = {"log_probabilities": False}
    assert parted(side(server(**silent)), side(server(**silent))).stage is None
    result = parted(side(server(**silent)), side(server("answers_removed", **silent)))
    assert result.stage is Stage.IDS
    assert side(server(**silent)).hidden[Stage.FIRST] == "the server gives no log-probabilities"
