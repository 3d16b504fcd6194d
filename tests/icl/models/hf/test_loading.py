"""A checkpoint that cannot run raises an error in a sentence, if possible before any weights are read."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch

from icl.errors import ConfigError, ModelError
from icl.models.base import LogitModel, Request
from icl.models.hf.memory import model_shape
from icl.models.hf.model import HF
from icl.registry import build, entries

FolderOf = Callable[[str], Path]


@pytest.fixture
def copied(folder_of: FolderOf, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("llava"), tmp_path / "checkpoint"))


def test_importing_the_component_does_not_import_torch() -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, icl.models.hf.model; print('torch' in sys.modules, 'transformers' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == ["False", "False"]


def test_it_is_a_component_and_a_model_that_gives_logits(folder_of: FolderOf) -> None:
    assert entries("model")["hf"].summary.startswith("Most AutoModelForImageTextToText checkpoints")
    hf = build("model", {"name": "hf", "path": "somewhere", "token_budget": 100})
    assert hf == HF(path="somewhere", token_budget=100)
    assert hf.abilities == {"logits", "score", "hidden_states", "embed", "text_logprobs", "interventions"}
    assert isinstance(HF(path=str(folder_of("llava"))), LogitModel)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"token_budget": 0}, "token_budget"),
        ({"quantize": "int3"}, "quantize"),
        ({"pth": "tiny"}, "Did you mean 'path'"),
    ],
)
def test_wrong_parameters_are_config_errors(node: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("model", {"name": "hf", **node})


def test_an_unknown_dtype_is_an_error_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"model.dtype: .bfloat. is not known\. Did you mean .bfloat16.\?"):
        HF(dtype="bfloat")  # type: ignore[arg-type]


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder .*nowhere"):
        HF(path=str(tmp_path / "nowhere")).load()
    with pytest.raises(ModelError, match=r"or one of tiny, small: there is no folder .*smal\. Did you mean 'small'\?$"):
        HF(path="smal").load()


def test_an_unavailable_hub_id() -> None:
    with pytest.raises(
        ModelError, match=r"'nobody/nothing' is no folder here and not in \S+\. HF_HUB_OFFLINE=1 forbids downloads"
    ):
        HF(path="nobody/nothing").count_tokens(tiny_models.prompt([], "hi"))


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="it is a file"):
        HF(path=str(tmp_path / "weights.bin")).load()


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        HF(path=str(tmp_path)).load()


def test_a_folder_without_weights_is_planned_and_not_loaded(copied: Path) -> None:
    tokens = HF(path=str(copied)).count_tokens(tiny_models.prompt([]))
    (copied / "model.safetensors").unlink()
    hf = HF(path=str(copied))
    assert hf.count_tokens(tiny_models.prompt([])) == tokens
    for use in (hf.load, hf.check_loadable):
        with pytest.raises(ModelError, match="no weights"):
            use()


def test_a_folder_without_a_processor(copied: Path) -> None:
    (copied / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="has no processor"):
        HF(path=str(copied)).load()


def test_a_processor_without_a_chat_template_writes_a_prompt_of_one_turn_as_plain_text(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    hf = HF(path=str(copied))
    assert hf.renderer.text(tiny_models.prompt([1], "color?")) == hf.renderer.slot + "color?"
    with pytest.raises(ModelError, match=r"has no chat template, so a prompt is one text: use .* such as interleaved"):
        hf.renderer.text(tiny_models.prompt([1, 2]))
    assert [note for note in hf.plan_notes if "has no chat template: a prompt is plain text without roles" in note]


def test_code_of_a_checkpoint_does_not_run_by_default(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"},
    }
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ModelError, match="brings its own Python code"):
        HF(path=str(copied)).load()


OWN_CONFIG = "from transformers import LlavaConfig\n\nclass Config(LlavaConfig):\n    model_type = 'own'\n"


@pytest.mark.parametrize("more", [{}, {"AutoModelForCausalLM": "own.Model"}])
def test_a_config_class_without_a_model_class_is_a_sentence(copied: Path, more: dict[str, str]) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", **more}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text(OWN_CONFIG)
    model = HF(path=str(copied), trust_remote_code=True)
    says = r"no model for the config class Config \(model_type 'own'\).* names no AutoModelForImageTextToText"
    with pytest.raises(ModelError, match=says):
        model_shape(model.checkpoint.config, trust_remote_code=True)
    with pytest.raises(ModelError, match=says):
        model.load()


def test_weights_of_another_model_are_reported(folder_of: FolderOf, copied: Path) -> None:
    shutil.copy(folder_of("internvl") / "model.safetensors", copied)
    with pytest.raises(ModelError, match=r"lacks|cannot be loaded"):
        HF(path=str(copied)).load()


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    gone = next(name for name in weights if "self_attn.q_proj" in name)
    save_file({name: w for name, w in weights.items() if name != gone}, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of the weights of a LlavaForConditionalGeneration"):
        HF(path=str(copied)).load()


def test_a_truncated_weight_file(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    sentence = r"model\.safetensors is damaged or incomplete \(.*\)\. Copy it again"
    with pytest.raises(ModelError, match=sentence):
        HF(path=str(copied)).load()
    with pytest.raises(ModelError, match=sentence):
        HF(path=str(copied)).check_loadable()  # at the plan


@pytest.mark.parametrize("path", ["./none", "../none", "none/.hidden", "a--b/c"])
def test_a_path_that_is_no_hub_id_is_a_sentence(path: str) -> None:
    with pytest.raises(ModelError, match=r"is not a folder with a checkpoint, a hub id"):
        _ = HF(path=path).checkpoint.folder


def test_an_unavailable_attention_implementation(folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
        HF(path=str(folder_of("llava")), attn_implementation="flash_attention_2").load()


def test_a_prompt_beyond_the_context_is_reported_before_a_forward(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 100
    (copied / "config.json").write_text(json.dumps(config))
    hf = HF(path=str(copied))
    hf.open([tiny_models.prompt([1, 2])])
    before = hf.counters()["forwards"]
    with pytest.raises(ModelError, match=r"a prompt has 1[0-9][0-9] tokens, and .* reads at most 100"):
        hf.open([tiny_models.prompt([1, 2]), tiny_models.prompt([1, 2, 3, 4])])
    assert hf.counters()["forwards"] == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_an_error(folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match=r"'cuda' is requested, but this torch .* is built for the CPU"):
        HF(path=str(folder_of("llava")), device="cuda").load()


def test_an_invalid_device_name(folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match="'gpu' is not a device"):
        HF(path=str(folder_of("llava")), device="gpu").load()


def test_tokens_are_counted_without_weights_in_memory(folder_of: FolderOf) -> None:
    hf = HF(path=str(folder_of("llava")))
    assert hf.count_tokens(tiny_models.prompt([1, 2])) > 32
    assert hf.max_tokens == 8192
    assert hf.stop_tokens == {257}
    assert "engine" not in vars(hf)


def test_the_digest_names_weights_and_settings(folder_of: FolderOf, copied: Path) -> None:
    own = HF(path=str(folder_of("llava"))).digest
    assert HF(path=str(copied)).digest == own
    assert HF(path=str(copied), token_budget=7, image_cache_mb=1).digest == own
    assert HF(path=str(copied), dtype="bfloat16").digest != own
    tiny_models.save("llava", copied, seed=1)
    assert HF(path=str(copied)).digest != own


def test_answers_come_through_sessions() -> None:
    with pytest.raises(ModelError, match="answers through sessions"):
        HF().generate([Request(tiny_models.prompt([]))])


@pytest.mark.parametrize("name", tiny_models.SAMPLE)
def test_bfloat16_runs_and_scores_in_float32(name: str, folder_of: FolderOf) -> None:
    hf = HF(path=str(folder_of(name)), dtype="bfloat16")
    rows = hf.open([tiny_models.prompt([1, 2]), tiny_models.prompt([3])])
    assert hf.engine.runner.model.dtype == torch.bfloat16
    assert rows.logits.dtype == torch.float32
    assert hf.notes == ()


def test_loading_is_logged_with_device_and_precision(folder_of: FolderOf, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(folder_of("llava"))
    with caplog.at_level(logging.INFO, logger="icl"):
        HF(path=folder, device="cpu").load()
    messages = [record.getMessage() for record in caplog.records if record.name == "icl.models.hf.engine"]
    assert messages[0] == f"loading {folder} (device_map cpu, dtype torch.float32)"
    assert messages[1].startswith(f"loaded {folder}: LlavaForConditionalGeneration, torch.float32 on cpu, ")


FAULTS = """
import resource, torch
from icl.memory import keep_freed_memory
{call}
torch.set_num_threads(1)
cache = [torch.zeros(32, 300, 160) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    cache = [torch.cat([layer, torch.zeros(32, 1, 160)], 1) for layer in cache]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told")
def test_a_growing_cache_takes_its_pages_once() -> None:
    from icl.memory import keep_freed_memory

    if not keep_freed_memory():
        pytest.skip("the allocator is not glibc's, or the environment sets it")
    plain, tuned = (int(_printed(FAULTS.format(call=call))) for call in ("", "keep_freed_memory()"))
    assert tuned < plain / 3


def test_settings_of_the_environment_stand() -> None:
    output = _printed(
        "from icl.memory import keep_freed_memory; print(keep_freed_memory())",
        MALLOC_TRIM_THRESHOLD_="131072",
    )
    assert output == "False"


def _printed(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()
