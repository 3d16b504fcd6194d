"""The input of the output head: a slice in 16 bits would be multiplied row by row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch

from icl.models.hf.language_model import contiguous_input
from icl.models.hf.model import HF


def test_the_output_head_reads_a_contiguous_tensor_in_a_prefill_of_16_bits(folder_of: Callable[[str], Path]) -> None:
    model = HF(path=str(folder_of("llava")), device="cpu", dtype="bfloat16")
    model.load()
    is_contiguous = list[bool]()
    head: Any = model.engine.runner.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: is_contiguous.append(inputs[0].is_contiguous()))
    model.open(tiny_models.prompts())
    assert is_contiguous
    assert all(is_contiguous)


def test_a_contiguous_input_has_the_products_of_a_slice() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 40, bias=False).bfloat16().requires_grad_(False)
    states = torch.randn(3, 5, 16, generator=generator).bfloat16()[:, -1:, :]
    (copied,) = contiguous_input(head, (states,)) or ()
    assert copied.is_contiguous()
    assert not states.is_contiguous()
    with torch.no_grad():
        assert torch.equal(head(copied), head(states))
    assert contiguous_input(head, (states.float(),)) is None
