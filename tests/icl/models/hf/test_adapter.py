"""LoRA adapters, merged and separate, agree and differ from the base model. Adapters that do not fit are reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from icl.errors import ConfigError, ModelError
from icl.models.hf.adapter import LoraAdapter
from icl.models.hf.model import HF
from icl.registry import build

peft = pytest.importorskip("peft")

FolderOf = Callable[[str], Path]
TARGETS = r".*(language|text)_model.*(q_proj|v_proj|down_proj)"


def saved(path: str, folder: Path, targets: str = TARGETS) -> Path:
    """A LoRA for a checkpoint, with numbers in both of its factors."""
    hf = HF(path=path)
    model = hf.checkpoint.weights(dtype=torch.float32)
    model.name_or_path = "owner/base-model"
    made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2, generator=draw)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("tiny", tmp_path_factory.mktemp("lora"))


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def logits(hf: HF) -> torch.Tensor:
    rows = hf.open(tiny_models.prompts())
    rows.advance(torch.arange(5))
    return rows.logits


@pytest.mark.parametrize("path", ["tiny", "llava"])
def test_merged_and_separate_adapters_agree_and_differ_from_the_base(
    path: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    where = path if path == "tiny" else str(folder_of(path))
    own = str(saved(where, tmp_path / "lora"))
    base, separate, merged = HF(path=where), HF(path=where, adapter=own), HF(path=where, adapter=own, merge=True)
    assert separate.notes == merged.notes == ()
    assert float((logits(separate) - logits(merged)).abs().max()) < 1e-3
    assert float((logits(separate) - logits(base)).abs().max()) > 0.1
    names = [
        [name for name, _ in hf.engine.runner.model.named_parameters() if "lora" in name] for hf in (separate, merged)
    ]
    assert names[0]
    assert not names[1]


def test_a_folder_with_the_name_of_a_shipped_adapter_is_not_hidden(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(adapter, tmp_path / "tiny_raven")
    shipped = LoraAdapter("tiny_raven").folder
    monkeypatch.chdir(tmp_path)
    assert not LoraAdapter("./tiny_raven").folder.samefile(shipped)
    with pytest.raises(ModelError, match=r"a shipped adapter and a folder here\. Write \./tiny_raven for the folder"):
        _ = LoraAdapter("tiny_raven").folder


def test_the_digest_of_another_shipped_model_with_an_adapter_is_refused_before_weights_are_read() -> None:
    assert HF(path="tiny", adapter="tiny_raven").digest != HF(path="tiny").digest
    with pytest.raises(ModelError, match=r"raven is an adapter of another model than small: .* trained on tiny\.$"):
        _ = HF(path="small", adapter="tiny_raven").digest


def test_another_name_of_the_base_on_the_hub_is_noted(adapter: Path) -> None:
    lora = HF(adapter=str(adapter)).lora
    assert lora is not None
    assert lora.base_note("owner/base-model") is None
    assert "trained on owner/base-model; it is used on owner/another" in (lora.base_note("owner/another") or "")


def test_an_adapter_beside_quantized_weights_changes_the_logits(adapter: Path) -> None:
    pytest.importorskip("bitsandbytes")
    few = HF(quantize="nf4", adapter=str(adapter))
    full = logits(HF(adapter=str(adapter)))
    assert few.notes == ()
    assert float(torch.cosine_similarity(logits(few), full).mean()) > 0.6
    assert float((logits(few) - logits(HF(quantize="nf4"))).abs().max()) > 0.1


def test_the_digest_is_of_the_adapters_content(adapter: Path, copied: Path) -> None:
    own = HF(adapter=str(adapter)).digest
    assert own != HF().digest
    assert HF(adapter=str(adapter), merge=True).digest != own
    assert HF(adapter=str(copied)).digest == own
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    assert HF(adapter=str(copied)).digest != own


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("adapter_config.json", "has no adapter_config.json, so it is not a peft adapter"),
        ("adapter_model.safetensors", "has an adapter_config.json but no weights"),
    ],
)
def test_missing_files_are_reported_when_the_plan_is_made(copied: Path, gone: str, message: str) -> None:
    (copied / gone).unlink()
    with pytest.raises(ModelError, match=message):
        _ = HF(adapter=str(copied)).digest


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.adapter: there is no folder .*nowhere"):
        _ = HF(adapter=str(tmp_path / "nowhere")).digest


def test_another_kind_of_adapter_is_reported(copied: Path) -> None:
    (copied / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    with pytest.raises(ModelError, match=r"of type PREFIX_TUNING. This backend supports LORA only"):
        _ = HF(adapter=str(copied)).digest


def test_a_config_that_is_no_json(copied: Path) -> None:
    (copied / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        _ = HF(adapter=str(copied)).digest


def test_an_adapter_of_a_model_of_another_width_is_reported(adapter: Path, folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match=r"of another model than .*: .*It was trained on owner/base-model\."):
        HF(path=str(folder_of("llava")), adapter=str(adapter)).load()


def test_an_adapter_of_a_model_with_other_layers_is_reported(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copied / "adapter_model.safetensors"
    weights = load_file(file)
    deeper = {name.replace("layers.3.", "layers.7."): weight for name, weight in weights.items()}
    save_file(deeper, file, {"format": "pt"})
    with pytest.raises(ModelError, match="of another model than tiny: tiny has no place for 6 of its weights"):
        HF(adapter=str(copied)).load()
    save_file({name: weight for name, weight in weights.items() if "layers.3." not in name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="of another model than tiny: tiny finds nothing for 6 of its weights"):
        HF(adapter=str(copied)).load()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"merge": True}, "there is no `adapter` to merge"),
        ({"adapter": "x", "merge": True, "quantize": "nf4"}, "merged into nf4 weights would be rounded"),
    ],
)
def test_settings_that_do_not_go_together(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("model", {"name": "hf", **node})
