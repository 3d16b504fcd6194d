"""A checkpoint whose weights are a pickle with code is refused in a sentence, and its code does not run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cli.main import main
from icl.errors import ModelError
from icl.models.checkpoint_errors import reason
from icl.models.hf.adapter import LoraAdapter
from icl.models.hf.checkpoint import Checkpoint
from retrievers.embedders.vision import VisionBackbone
from retrievers.machinery.embedding_models import EmbedderPlacement, SentenceEncoder
from retrievers.machinery.encoder import DualEncoder

SHIPPED = Path(__file__).parents[3] / "icl" / "models" / "tiny" / "checkpoints"
REFUSED = r"a pickle of more than tensors, which could run code by being read and is not opened\. Take a copy with"


class Code:
    """What a malicious file does when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def checkpoint(tmp_path: Path, mark: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        folder = Path(shutil.copytree(SHIPPED / name, tmp_path / name))
        (folder / "model.safetensors").unlink()
        torch.save({"weight": Code(mark)}, folder / "pytorch_model.bin")
        return folder

    return made


def test_the_file_would_run_its_code(checkpoint: Callable[[str], Path], mark: Path) -> None:
    torch.load(checkpoint("vlm") / "pytorch_model.bin", weights_only=False)
    assert mark.exists()


def test_a_run_is_refused_with_status_2_and_one_sentence(
    checkpoint: Callable[[str], Path],
    mark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"task": {"name": "binding", "queries": 2}, "model": {"name": "hf", "path": str(checkpoint("vlm"))}}
    Path("x.yaml").write_text(json.dumps(config))
    assert main(["run", "x.yaml", "--quiet"]) == 2
    err = capsys.readouterr().err
    start = f"x.yaml:1: model.path: the weights of {tmp_path / 'vlm'} cannot be loaded: a weight file (*.bin) is "
    assert err.startswith(start)
    assert err.count("\n") == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    "open_", [DualEncoder, VisionBackbone, lambda folder, place: SentenceEncoder(folder, 8, place)]
)
def test_embedders_refuse_it_too(
    checkpoint: Callable[[str], Path], mark: Path, open_: Callable[[Path, EmbedderPlacement], object]
) -> None:
    with pytest.raises(ModelError, match=REFUSED):
        open_(checkpoint("encoder"), EmbedderPlacement("cpu", "float32"))
    assert not mark.exists()


def test_an_adapter_is_refused_too(tmp_path: Path, mark: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"weight": Code(mark)}, folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=REFUSED):
        LoraAdapter(str(folder)).apply_to(Checkpoint("tiny").weights(), "tiny", merge=False)
    assert not mark.exists()


@pytest.mark.parametrize("left", [b"", b"no pickle at all", b"\x80\x04"])
def test_a_damaged_weight_file_is_reported(tmp_path: Path, left: bytes) -> None:
    folder = Path(shutil.copytree(SHIPPED / "vlm", tmp_path / "vlm"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(left)
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded: "):
        Checkpoint(str(folder)).weights()


def test_other_errors_are_reported_by_their_first_line() -> None:
    assert reason(ValueError("\n one\ntwo")) == "one"
    assert reason(KeyError()) == "KeyError"


def test_the_line_after_a_heading_is_included() -> None:
    """As torch lists weights of another size."""
    several = RuntimeError(
        "Error(s) in loading state_dict for Model:\n\tsize mismatch for head.weight\n\tsize mismatch"
    )
    assert reason(several) == "Error(s) in loading state_dict for Model: size mismatch for head.weight"
    assert reason(RuntimeError("one\ntwo")) == "one"
    assert reason(RuntimeError("")) == "RuntimeError"
