"""Masks that transformers does not look into equal those that it makes itself."""

from typing import Any

import pytest
import torch

from icl.models.hf.model import HF
from icl.models.hf.padding_mask import mask_of_chunk, mask_of_rows
from lab.bench.decoding import prompts_of


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> HF:
    hf = HF(path="tiny", dtype="float32", device="cpu", attn_implementation=request.param)
    hf.load()
    return hf


def test_steps_with_the_mask_of_the_attention_equal_steps_with_the_mask_of_tokens(
    model: HF, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = prompts_of(0)[:2]
    prompts = [long, type(short)(short.turns[-1:], short.key)]

    def decode() -> torch.Tensor:
        session, logits = model.open(prompts), []
        assert session.has_padding
        for _ in range(3):
            session.advance(session.logits.argmax(-1))
            logits.append(session.logits)
        session.extend([[5, 6], [7]])
        return torch.stack([*logits, session.logits])

    with torch.inference_mode():
        by_attention = decode()
        runner: Any = model.engine.runner
        monkeypatch.setitem(vars(runner), "is_from_transformers", False)
        by_tokens = decode()
    torch.testing.assert_close(by_attention, by_tokens, atol=1e-6, rtol=0)


def test_a_mask_of_rows_and_a_chunk_by_hand() -> None:
    rows = mask_of_rows([1, 3], 3, 5, torch.device("cpu"))[:, :5]
    assert rows.int().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert mask_of_chunk(rows, [1, 0]).int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 1]]
