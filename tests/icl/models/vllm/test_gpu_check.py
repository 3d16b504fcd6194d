"""vLLM must find CUDA untouched when it forks its engine. No vLLM and no GPU is needed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cli import main as cli
from icl.models.vllm import model as vllm_model

SPIES = """
import os
import torch
asked = []
torch.cuda.is_available = lambda: asked.append(os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")) or False
import icl
from icl.models.vllm.model import VLLM
import peft, accelerate
model = VLLM("tiny", tensor_parallel_size=1)
model.digest, model.arguments()
torch.version.cuda = "13.0"  # as in a build for GPUs; libraries that are imported later would look for its functions
torch._C._cuda_getDeviceCount = lambda: asked.append("CUDA") or 0
model.device_type, model.precision, model.arguments(), model.block_size
print(asked)
assert set(asked) <= {"1"}, asked
"""


def test_nothing_starts_cuda_before_vllm_does() -> None:
    """Import, digest, precision and arguments: availability is asked with NVML only, and CUDA never."""
    ended = subprocess.run([sys.executable, "-c", SPIES], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("cuda", "file", "count", "expected"),
    [
        (None, "nvidia0", 1, False),
        ("13.0", "null", 1, False),
        ("13.0", "nvidiactl", 1, False),
        ("13.0", "nvidia0", 1, True),
        ("13.0", "nvidia0", 0, False),
        ("13.0", "dxg", 1, True),
    ],
)
def test_a_gpu_is_found_by_its_file_and_then_by_nvml(  # noqa: PLR0917
    cuda: str | None, file: str, count: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).touch()
    counted: list[int] = []

    def device_count() -> int:
        counted.append(count)
        return count

    monkeypatch.setattr(vllm_model, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", device_count)
    assert vllm_model.has_gpu() is expected
    assert bool(counted) is (cuda is not None and file in ("nvidia0", "dxg"))  # else CUDA could be asked


def test_the_command_line_spawns_vllms_processes_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import os

    for before, after in ((None, "spawn"), ("fork", "fork")):
        monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
        if before is not None:
            monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", before)
        assert cli.main(["ls", "launcher"]) == 0
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == after
