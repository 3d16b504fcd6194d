"""Early-exit logits of a session equal those of a whole forward pass for each prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import conversations, prompts
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf.language_model import EarlyExitHead, contiguous_input
from icl.models.hf.model import HF
from icl.types import Prompt

ModelOf = Callable[[str], HF]
every = pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen3_5"])
CLOSE = 5e-5
WORDS = [65, 66, 67]


def alone(hf: HF, prompt: Prompt, words: Sequence[int] = ()) -> Tensor:
    """[early layers, V]: the layers of the even numbers through the output layer, without a session."""
    inputs = dict(
        hf.checkpoint.processor.apply_chat_template(
            conversations([prompt]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )
    for key, value in inputs.items():
        if key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            more = {
                "input_ids": torch.tensor([list(words)], dtype=value.dtype),
                "attention_mask": value.new_ones(1, len(words)),
            }
            inputs[key] = torch.cat([value, more.get(key, value.new_zeros(1, len(words)))], 1)
    model = hf.engine.runner.model
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        return torch.stack([model.get_output_embeddings()(h[0, -1]) for h in states[2 if tied else 0 : -1 : 2]])


def same(early: Tensor, expected: Sequence[Tensor]) -> None:
    """found: [layers, R, V]."""
    torch.testing.assert_close(early, torch.stack(list(expected), 1), rtol=0, atol=CLOSE)


@every
def test_early_exit_logits_in_a_batch_equal_single_prompts(name: str, model_of: ModelOf) -> None:
    hf, batch = model_of(name), prompts()
    rows = hf.open(batch, early_exits=True)
    plain = hf.open(batch)
    torch.testing.assert_close(rows.logits, plain.logits, rtol=0, atol=CLOSE)
    same(rows.early_exit_logits, [alone(hf, prompt) for prompt in batch])
    rows.advance(torch.tensor([WORDS[0]] * len(batch)))
    chosen = rows.take(torch.tensor([3, 0]))
    chosen.extend([WORDS[1:2], WORDS[1:]])
    same(rows.early_exit_logits, [alone(hf, prompt, WORDS[:1]) for prompt in batch])
    same(chosen.early_exit_logits, [alone(hf, batch[3], WORDS[:2]), alone(hf, batch[0], WORDS)])
    both = rows.join(hf.open(batch[:1], early_exits=True))
    same(both.early_exit_logits[:, -1:], [alone(hf, batch[0])])


@every
def test_early_layers_score_options_too(name: str, model_of: ModelOf) -> None:
    hf, batch = model_of(name), prompts()[:2]
    rows = hf.open(batch, early_exits=True)
    options = rows.suffix_early_exit_logits([[WORDS, WORDS[:1]], [WORDS[:2]]])
    for prompt, of_row, suffixes in zip(batch, options, [[WORDS, WORDS[:1]], [WORDS[:2]]], strict=True):
        for scores, suffix in zip(of_row, suffixes, strict=True):
            expected = [alone(hf, prompt, suffix[:i]).log_softmax(-1) for i in range(len(suffix))]
            same(scores, expected)
    for scores, plain in zip(
        rows.suffix_logprobs([[WORDS], []]), hf.open(batch).suffix_logprobs([[WORDS], []]), strict=True
    ):
        for a, b in zip(scores, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=CLOSE)


def test_shared_prefixes_change_nothing(model_of: ModelOf) -> None:
    hf = model_of("llava")
    long = prompts()[2]
    batch = [
        replace(long, turns=(*long.turns[:-1], replace(long.turns[-1], parts=(*long.turns[-1].parts[:-1], part))))
        for part in [replace(long.turns[-1].parts[-1], content=text) for text in ("what?", "how?", "which one is it?")]
    ]
    before = hf.counters()["prefill_tokens"]
    rows = hf.open(batch, early_exits=True)
    assert hf.counters()["prefill_tokens"] - before < sum(map(hf.count_tokens, batch))
    same(rows.early_exit_logits, [alone(hf, prompt) for prompt in batch])


def test_a_session_without_early_exits_names_the_option(model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match="early_exits=True"):
        _ = model_of("llava").open(prompts()[:1]).early_exit_logits


def test_an_output_layer_with_more_than_a_matrix_is_refused(model_of: ModelOf) -> None:
    model = model_of("llava").engine.runner.model
    states = [torch.randn(1, 2, model.get_output_embeddings().weight.shape[1]) for _ in range(4)]
    capped = torch.tanh(model.get_output_embeddings()(states[-1]))
    with pytest.raises(ModelError, match="does more than its matrix"):
        EarlyExitHead(model).with_early_logits(capped, states)


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
