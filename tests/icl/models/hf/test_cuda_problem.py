"""A GPU that cannot be used is a sentence: no driver, an old one, a Slurm job without its GPU, a mistyped setting."""

from pathlib import Path

import pytest
import torch

from icl.errors import ConfigError, ModelError
from icl.models.hf import cuda_problem as cuda_problem_module
from icl.models.hf.cuda_problem import cuda_problem
from icl.models.hf.device_placement import resolve_device
from icl.models.hf.model import HF
from icl.registry import build


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A torch for CUDA 12.8 that sees no device, and a folder of device files."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(cuda_problem_module, "DEVICES", tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", *cuda_problem_module.SLURM_GPUS):
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
