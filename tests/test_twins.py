"""Twins: checkpoints with the settings of published models, which the backend runs as transformers does."""

import json
from pathlib import Path

import pytest
import torch
from paper_data import twin_config, write_stand_ins
from transformers import AutoModelForMultimodalLM, AutoProcessor

from decoding.arms.arm import parse_arm
from experiments.api import run
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.results.view_run import view_run
from icl.errors import ConfigError
from icl.models.hf.model import HF
from lab.architectures.inputs import processor_inputs, prompts
from lab.models import checks
from tests.random_models.conversations import conversation
from tests.random_models.twins import twin as twin_module
from tests.random_models.twins.twin import save_twin, twins

SAMPLE = ("qwen3_5", "llava_onevision")
"""A recurrent model whose template opens a reasoning block, and tiles; `tests/lab/models` checks all."""


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("own_template", [False, True])
def test_a_twin_reads_the_prompts_of_its_own_processor(name: str, own_template: bool, tmp_path: Path) -> None:
    folder = save_twin(name, tmp_path, own_template=own_template)
    twin, hf = twins()[name], HF(path=str(folder), dtype="float32", device="cpu")
    processor = AutoProcessor.from_pretrained(folder)
    for prompt in prompts()[:2]:
        inputs = processor_inputs(processor, conversation(prompt), token_types=False)
        assert hf.count_tokens(prompt) == inputs["input_ids"].shape[1]
    assert hf.tokenizer.convert_ids_to_tokens(sorted(hf.stop_tokens)) == sorted(
        twin.stop, key=hf.tokenizer.get_vocab().get
    )
    assert (twin.published_template is None or own_template) == (
        "own, in the shape" in (folder / "README.md").read_text()
    )


def test_a_twin_has_the_settings_of_its_text_file(tmp_path: Path) -> None:
    folder = save_twin("qwen3_5", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
    assert config["text_config"]["rope_parameters"]["mrope_section"] == [11, 11, 10]
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.image_processor.patch_size, processor.image_processor.size["shortest_edge"]) == (16, 65536)
    assert processor.tokenizer.decode(processor.tokenizer("<think>x<|im_end|>").input_ids, True) == "<think>x"


def test_the_penalty_of_a_generation_config_is_that_of_a_processor_of_logits(tmp_path: Path) -> None:
    folder = save_twin("qwen2_5_vl", tmp_path)
    path = folder / "generation_config.json"
    path.write_text(path.read_text().replace('"repetition_penalty": 1.05', '"repetition_penalty": 3.0'))
    hf = HF(path=str(folder), dtype="float32", device="cpu")
    assert checks.compare_with_generate(hf, checks.greedy_arm(hf)).word == "yes"
    assert checks.compare_with_generate(hf, parse_arm("greedy")).word == "no"
    (note,) = [note for note in hf.plan_notes if "penalty" in note]
    assert "`logits_processors: [{name: repetition_penalty, penalty: 3.0}]` in `decoding` does." in note


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
def test_a_model_that_also_speaks_opens_as_its_part_that_reads_images(name: str, tmp_path: Path) -> None:
    folder = save_twin(name, tmp_path, own_template=True)
    hf = HF(path=str(folder), dtype="float32", device="cpu")
    hf.load()
    whole = AutoModelForMultimodalLM.from_pretrained(folder)
    opened, thinker = hf.engine.runner.model.state_dict(), whole.thinker.state_dict()
    assert opened.keys() == thinker.keys()
    assert all(torch.equal(opened[key], thinker[key]) for key in opened)
    assert len(hf.sites.all("residual")) == whole.config.thinker_config.text_config.num_hidden_layers


def test_a_paper_runs_on_the_twin_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = twin_config("papers/invariant_select", tmp_path)
    write_stand_ins(tmp_path, keys)
    view = view_run(run(keys, runs=tmp_path, quiet=True))
    assert (len(view.scores), view.failed) == (make_plan(expand(load_config(keys))).samples, 0)


def test_a_twin_without_the_key_of_its_text_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no twin named 'qwen3_50'\. Did you mean 'qwen3_5'"):
        save_twin("qwen3_50", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.yaml").write_text("{model: a/b, builder: llava, shape: chatml, tokns: []}")
    monkeypatch.setattr(twin_module, "HERE", tmp_path)
    with pytest.raises(ConfigError, match=r"a\.yaml: .*'tokns'"):
        twins.__wrapped__()
