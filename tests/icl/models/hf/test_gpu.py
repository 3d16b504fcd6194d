"""The equalities on a CUDA device, where kernels depend on batch and precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch

from icl.models.hf.model import HF

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
def test_a_batch_on_the_device_equals_single_prompts(name: str, folder_of: Callable[[str], Path]) -> None:
    hf = HF(path=str(folder_of(name)), device="cuda", dtype="float32")
    hf.load()
    assert hf.notes == ()
    rows = hf.open(tiny_models.prompts())
    alone = [hf.open([prompt]) for prompt in tiny_models.prompts()]
    assert rows.logits.device.type == "cuda"
    rows.extend([[1, 2, 3], [4], [5, 6], [7], [8]])
    for row, chunk in zip(alone, [[1, 2, 3], [4], [5, 6], [7], [8]], strict=True):
        row.extend([chunk])
    assert float((rows.logits - torch.cat([row.logits for row in alone])).abs().max()) < 1e-3
    rows = rows.take(torch.tensor([4, 0]))
    rows.trim()
    rows.suffix_logprobs([[[1, 2]], [[3, 4, 5], [6]]])


def test_the_checkpoints_own_precision_is_taken_on_a_device(folder_of: Callable[[str], Path]) -> None:
    hf = HF(path=str(folder_of("idefics3")), device="cuda", attn_implementation="sdpa")
    hf.load()
    assert hf.engine.runner.model.dtype == torch.float32
