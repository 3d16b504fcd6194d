"""Merged checkpoints in the cache: they are written once and completely, or there is an error. Needs no vLLM."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import checkpoints
import torch
from adapters import saved
from forked import call_forked
from reference import Reference
from safetensors import safe_open

from icl.errors import ConfigError, ICLWarning, ModelError
from icl.models.vllm.model import VLLM
from icl.registry import build


def merged(model: VLLM) -> Path:
    """The folder of a model with a merged adapter."""
    return Path(model.weights())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.saved("llava", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(folder, tmp_path_factory.mktemp("lora"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "merged"


def names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_it_is_the_checkpoint_with_other_weights_under_its_own_names(folder: Path, adapter: Path, cache: Path) -> None:
    model = VLLM(str(folder), adapter=str(adapter), merge=True)
    own = merged(model)
    assert own == merged(model) == Path(model.weights())
    assert own.parent == cache
    assert names(own) == names(folder)
    for path in folder.glob("*.json*"):
        assert (own / path.name).read_bytes() == path.read_bytes()
    lora = model.lora
    assert lora is not None
    prompt = checkpoints.tiny_models().prompt([1, 2], "what?")
    base, adapted = Reference(folder), Reference(folder)
    adapted.model = lora.apply_to(adapted.model, str(folder), merge=False)
    merged_logits, expected, plain = (which.logits(prompt, [5, 6]) for which in (Reference(own), adapted, base))
    assert torch.allclose(merged_logits, expected, atol=1e-4)
    assert float((merged_logits - plain).abs().max()) > 0.1


def test_other_weights_and_other_precisions_are_other_folders(folder: Path, adapter: Path, tmp_path: Path) -> None:
    other = saved(folder, tmp_path / "other", seed=1)
    made = [
        merged(VLLM(str(folder), adapter=str(adapter), merge=True)),
        merged(VLLM(str(folder), adapter=str(other), merge=True)),
        merged(VLLM(str(folder), adapter=str(adapter), merge=True, dtype="bfloat16")),
    ]
    assert len(set(made)) == 3
    with safe_open(made[2] / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def ran(code: str, place: Path, *arguments: Path) -> "subprocess.CompletedProcess[str]":
    """A program in a process of its own."""
    (place / "program.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    return call_forked(["python", "program.py", *map(str, arguments)], place, environment)


def test_processes_that_come_together_write_one_folder(
    folder: Path, adapter: Path, cache: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom icl.models.vllm.model import VLLM\n"
        "print(VLLM(sys.argv[1], adapter=sys.argv[2], merge=True).weights())"
    )
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: ran(code, tmp_path, folder, adapter), range(2)))
    folders = {process.stdout.splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert folders == {str(path) for path in cache.iterdir() if path.is_dir()}
    assert len(folders) == 1


def test_files_of_a_killed_process_are_removed(folder: Path, adapter: Path, cache: Path) -> None:
    model = VLLM(str(folder), adapter=str(adapter), merge=True)
    whole = merged(model)
    whole.rename(whole.with_name(f"{whole.name}-half"))
    assert merged(model) == whole
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [whole.name]


@pytest.mark.parametrize("pattern", ["*.safetensors", "config.json", "files.json"])
def test_an_incomplete_folder_is_written_again(pattern: str, folder: Path, adapter: Path, cache: Path) -> None:
    own = merged(VLLM(str(folder), adapter=str(adapter), merge=True))
    next(own.glob(pattern)).unlink()
    with pytest.warns(ICLWarning, match=r"is damaged \(.*\)\. It is written again"):
        assert merged(VLLM(str(folder), adapter=str(adapter), merge=True)) == own
    assert names(own) == names(folder)


@pytest.mark.parametrize("damage", ["cut", "zeroed", "one bit"])
def test_damaged_weights_are_written_again_with_a_warning(
    damage: str, folder: Path, adapter: Path, cache: Path, recwarn: pytest.WarningsRecorder
) -> None:
    own = merged(VLLM(str(folder), adapter=str(adapter), merge=True))
    weights = own / "model.safetensors"
    content = weights.read_bytes()
    one_bit = content[:-1] + bytes([content[-1] ^ 1])
    weights.write_bytes({"cut": content[:99], "zeroed": bytes(len(content)), "one bit": one_bit}[damage])
    with pytest.warns(ICLWarning, match=r"is damaged \(model\.safetensors\)\. It is written again"):
        assert merged(VLLM(str(folder), adapter=str(adapter), merge=True)) == own
    assert weights.read_bytes() == content
    recwarn.clear()
    merged(VLLM(str(folder), adapter=str(adapter), merge=True))
    assert not [warning for warning in recwarn if issubclass(warning.category, ICLWarning)]


def test_a_source_that_changed_meanwhile_is_an_error(folder: Path, adapter: Path, cache: Path, tmp_path: Path) -> None:
    """Neither that of the adapter nor that of the base."""
    for changed in ("adapter", "base"):
        base = Path(shutil.copytree(folder, tmp_path / changed / "base"))
        own = Path(shutil.copytree(adapter, tmp_path / changed / "own"))
        model = VLLM(str(base), adapter=str(own), merge=True)
        _ = model.digest
        if changed == "adapter":
            shutil.copytree(saved(folder, tmp_path / "other", seed=3), own, dirs_exist_ok=True)
        else:
            (base / "generation_config.json").write_text("{}")
        with pytest.raises(ModelError, match="was changed while this ran"):
            merged(model)
        assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_full_disk_is_an_error_with_a_message(folder: Path, adapter: Path, cache: Path, tmp_path: Path) -> None:
    """The disk fills up after the check of its free space; here a limit of the file size has that effect."""
    code = (
        "import resource, signal, sys\nfrom icl.models.vllm.model import VLLM\n"
        "model = VLLM(sys.argv[1], adapter=sys.argv[2], merge=True)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "model.weights()"
    )
    ended = ran(code, tmp_path, folder, adapter)
    assert ended.returncode == 1
    assert "ModelError: model.merge: the merged checkpoint cannot be written to" in ended.stderr
    assert not [path for path in cache.iterdir() if path.is_dir()]


class Evil:
    """An object whose unpickling runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("whose", ["adapter", "base"])
def test_weights_in_a_pickle_run_no_code(whose: str, folder: Path, adapter: Path, cache: Path, tmp_path: Path) -> None:
    source, name = {"adapter": (adapter, "adapter_model.bin"), "base": (folder, "pytorch_model.bin")}[whose]
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    for path in copy.glob("*.safetensors"):
        path.unlink()
    torch.save({"weight": Evil(tmp_path / "ran")}, copy / name)
    paths = {"adapter": (folder, copy), "base": (copy, adapter)}[whose]
    with pytest.raises(ModelError, match="could run code by being read"):
        merged(VLLM(str(paths[0]), adapter=str(paths[1]), merge=True))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_adapter_is_not_called_another_models(folder: Path, adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"target_modules": "("}))
    with pytest.raises(ModelError, match="unterminated subpattern"):
        merged(VLLM(str(folder), adapter=str(copy), merge=True))
    (copy / "adapter_config.json").write_text(json.dumps(config))
    (copy / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot be loaded: Error while deserializing header"):
        merged(VLLM(str(folder), adapter=str(copy), merge=True))


def test_a_broken_link_is_an_error_with_a_message(folder: Path, adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "vocab.json").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"vocab\.json is a broken link"):
        merged(VLLM(str(copy), adapter=str(adapter), merge=True))


def test_a_cache_that_cannot_be_written_is_an_error_with_a_message(
    folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written to .* Set ICL_CACHE to a folder with room"):
        merged(VLLM(str(folder), adapter=str(adapter), merge=True))


def test_an_adapter_of_another_base_leaves_nothing(adapter: Path, cache: Path, tmp_path: Path) -> None:
    wider = checkpoints.saved("llava", tmp_path, width=256)
    with pytest.raises(ModelError, match="is an adapter of another model than"):
        merged(VLLM(str(wider), adapter=str(adapter), merge=True))
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_quantized_base_is_refused_when_the_plan_is_made(folder: Path, adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq", "bits": 4}}))
    with pytest.raises(ModelError, match=r"is quantized \(awq\), and an adapter merged into its weights"):
        _ = VLLM(str(copy), adapter=str(adapter), merge=True).digest


def test_there_must_be_an_adapter_to_merge() -> None:
    with pytest.raises(ConfigError, match="there is no `adapter` to merge"):
        build("model", {"name": "vllm", "merge": True})


def test_a_hub_id_is_merged_from_its_files_in_the_hub_s_cache(folder: Path, adapter: Path, tmp_path: Path) -> None:
    """This needs a process of its own, since the hub's library reads the path of its cache on import."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--llava"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "import sys\nfrom icl.models.vllm.model import VLLM\n"
        "model = VLLM('someone/llava', adapter=sys.argv[1], merge=True)\n"
        "print(model.hf.checkpoint.digest, model.weights())"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=True)
    digest, own = done.stdout.splitlines()[-1].split()
    by_folder = merged(VLLM(str(folder), adapter=str(adapter), merge=True))
    assert digest == f"someone/llava@{commit}"
    assert Path(own) != by_folder
    assert {path.name: path.read_bytes() for path in Path(own).iterdir()} == {
        path.name: path.read_bytes() for path in by_folder.iterdir()
    }
