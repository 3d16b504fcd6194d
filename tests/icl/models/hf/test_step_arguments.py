"""Sessions of models with cross-attention to images: rows carry image states and masks beside their tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch

from icl.models.hf.model import HF
from icl.models.hf.session import join_sessions
from icl.models.hf.step_arguments import StepArgumentsLayer
from icl.types import Prompt

FolderOf = Callable[[str], Path]
CHUNK = (40, 77, 9)
OPTIONS = [(33,), (40, 77), (40, 9, 12)]


@pytest.fixture(scope="module", params=["mllama", "idefics"])
def model(request: pytest.FixtureRequest, folder_of: FolderOf) -> HF:
    return HF(path=str(folder_of(request.param)), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """Three, one, four, no and two images."""
    return tiny_models.prompts()


def test_a_batch_of_rows_with_other_numbers_of_images_decodes_as_each_row_alone(
    model: HF, prompts: list[Prompt]
) -> None:
    together, alone = model.open(prompts), [model.open([prompt]) for prompt in prompts]
    for step in range(4):
        expected = torch.cat([session.logits for session in alone])
        assert torch.allclose(together.logits, expected, atol=1e-4), step
        tokens = expected.argmax(-1)
        together.advance(tokens)
        for session, token in zip(alone, tokens, strict=True):
            session.advance(token[None])


def test_images_change_the_tokens_after_the_prefill(model: HF) -> None:
    """Without their states and masks, later steps would read the text only."""
    rows = model.open([tiny_models.prompt([1, 2]), tiny_models.prompt([3, 4])])
    layer = next(layer for layer in rows.cache.layers if isinstance(layer, StepArgumentsLayer))
    assert layer.per_token
    assert layer.rows == 2
    hidden = model.open([tiny_models.prompt([1, 2]), tiny_models.prompt([3, 4])])
    last = hidden.cache.layers[-1]
    for name in last.per_token:
        last.tensors[name] = torch.zeros_like(last.tensors[name])
    for session in (rows, hidden):
        session.advance(torch.tensor([5, 5]))
    assert (rows.logits - hidden.logits).abs().max() > 0.01


def test_a_chunk_of_tokens_reads_as_single_tokens(model: HF, prompts: list[Prompt]) -> None:
    stepped, extended = model.open(prompts), model.open(prompts)
    for token in CHUNK:
        stepped.advance(torch.full((len(prompts),), token))
    extended.extend([CHUNK] * len(prompts))
    assert torch.allclose(stepped.logits, extended.logits, atol=1e-4)


def test_chunks_of_several_lengths_read_as_each_row_alone(model: HF, prompts: list[Prompt]) -> None:
    chunks = [CHUNK[: 1 + i % 3] for i in range(len(prompts))]
    together = model.open(prompts)
    together.extend(chunks)
    for i, prompt in enumerate(prompts):
        alone = model.open([prompt])
        alone.extend([chunks[i]])
        assert torch.allclose(together.logits[i], alone.logits[0], atol=1e-4)


def test_option_logprobs_equal_those_of_single_steps(model: HF, prompts: list[Prompt]) -> None:
    scored = model.open(prompts).suffix_logprobs([OPTIONS] * len(prompts))
    for option, number in zip(OPTIONS, range(len(OPTIONS)), strict=True):
        session = model.open(prompts)
        for step, token in enumerate(option):
            expected = session.logits.log_softmax(-1)
            got = torch.stack([row[number][step] for row in scored])
            assert torch.allclose(got, expected, atol=1e-4)
            session.advance(torch.full((len(prompts),), token))


def test_rows_can_be_selected_repeated_and_joined(model: HF, prompts: list[Prompt]) -> None:
    rows = model.open(prompts)
    order = torch.tensor([3, 1, 1, 0])
    some = join_sessions([rows.take(order[:2]), rows.take(order[2:])])
    for session in (rows, some):
        session.advance(torch.full((len(session),), 7))
    assert torch.allclose(some.logits, rows.logits[order], atol=1e-4)
