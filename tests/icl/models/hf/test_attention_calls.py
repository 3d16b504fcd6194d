"""Scores of attention calls, against an eager implementation of transformers."""

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from icl.models.hf.attention_calls import AttentionCall, recomputed


class Module(torch.nn.Module):
    """An attention module of two heads that share a key."""

    num_key_value_groups = 2


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_scores_are_capped_as_the_class_caps_them(softcap: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = (3 * torch.randn(1, heads, 6, 4) for heads in (4, 2, 2))
    mask = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)[None, None]
    output, _ = eager_attention_forward(Module(), query, key, value, mask, scaling=0.5, softcap=softcap)
    call = AttentionCall(query, key, value, mask, 0.5, True, softcap)
    torch.testing.assert_close(recomputed(call), output)


def test_scores_without_a_mask_are_causal_behind_earlier_slots() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 3, 4), *torch.randn(2, 1, 2, 6, 4)
    rows, columns = torch.tensor([0]), torch.tensor([[0, 1, 2]])

    def scores(width: int, mask: torch.Tensor | None, is_causal: bool) -> torch.Tensor:
        call = AttentionCall(query[:, :, -width:], key, value, mask, 0.5, is_causal)
        return call.scores(rows, columns[:, :width])

    causal = (torch.arange(6) <= torch.arange(3, 6)[:, None])[None, None]
    plain = scores(3, torch.ones_like(causal), False)
    assert torch.equal(scores(3, None, True), scores(3, causal, False))
    assert torch.equal(scores(3, None, True) == -torch.inf, ~causal.expand(1, 4, 3, 6).transpose(1, 2))
    assert torch.equal(scores(3, None, False), plain)
    assert torch.equal(scores(1, None, True), plain[:, -1:])
