"""Context vectors: the pooling by hand, their tokens in the prompt, and what reads demonstrations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding.interventions import virtual_tokens
from decoding.interventions.reconstructions.context_vectors import ContextVectors, pooled, unit_rms
from decoding.interventions.virtual_tokens import (
    EMBEDDING,
    SLOTS,
    DemonstrationBank,
    EmbeddingEdit,
    before_query,
    with_slots,
)
from decoding.prompt_edits import remove_demonstrations
from icl.errors import ModelError
from icl.models.interventions import Where, steer
from icl.types import Part, Prompt, Turn
from tests.decoding.interventions.dev_split import dev, tiny, write

WIDTH = 4


def pooler(count: int) -> torch.Tensor:
    return torch.randn(2 * count + 1 + WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))


def test_vectors_are_weighted_means_of_mapped_states() -> None:
    module, states = pooler(3), 5 * torch.randn(6, WIDTH)
    own, queries, shift, weights = module[:3], module[3:6], module[6], module[7:]
    u = states / states.square().mean(1, keepdim=True).sqrt()
    expected = []
    for b, q in zip(own, queries, strict=True):
        share = torch.tensor([float(q @ one) / 2 for one in u]).softmax(0)
        expected.append(b + sum(a * (one @ weights + shift) for a, one in zip(share, u, strict=True)))
    torch.testing.assert_close(pooled(module, states), torch.stack(expected))
    torch.testing.assert_close(pooled(module, states.flip(0)), torch.stack(expected))  # in any order
    torch.testing.assert_close(pooled(module, 3 * states), torch.stack(expected))
    torch.testing.assert_close(pooled(module, states[:1]), own + unit_rms(states[:1]) @ weights + shift)
    assert torch.equal(pooled(module, None), own)


@pytest.mark.parametrize("count", [1, 8])
def test_the_slots_are_so_many_tokens_before_the_query(count: int) -> None:
    prompt = dev(2, 3)[0].prompt
    made = with_slots(prompt, count, tiny())
    [states] = tiny().observe([made], [EMBEDDING], Where(SLOTS))
    assert states[EMBEDDING].shape == (count, 160)
    assert [one.name for one in made.parts()] == [
        SLOTS, *(one.name for one in remove_demonstrations(prompt).parts())
    ]  # fmt: skip
    same = steer(made, EmbeddingEdit(states[EMBEDDING], "own"))
    assert torch.equal(tiny().open([same]).logits, tiny().open([made]).logits)
    other = steer(made, EmbeddingEdit(states[EMBEDDING] + 1, "other"))
    assert not torch.equal(tiny().open([other]).logits, tiny().open([made]).logits)


def test_a_turn_before_the_query_does_not_get_the_part() -> None:
    """A system turn stays as it is, and only the first part of the query has the part before it."""
    query = Turn("user", (Part("Look.", "query.image[0]"), Part("How many?", "query.question")))
    prompt = Prompt((Turn("system", (Part("Answer briefly.", "instruction"),)), query, Turn("assistant", ())))
    made = before_query(prompt, Part("a a", SLOTS))
    assert [[part.name for part in turn.parts] for turn in made.turns] == [
        ["instruction"],
        [SLOTS, "query.image[0]", "query.question"],
        [],
    ]


def test_a_tokenizer_without_such_a_text_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_tokens, "FILLERS", ("several words",))
    with pytest.raises(ModelError, match="cannot insert exactly 2 placeholder tokens before the query"):
        with_slots(dev(2, 3)[0].prompt, 2, tiny())


def test_a_soft_prompt_reads_no_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [one.prompt for one in dev(2, 3, shots=2)]
    files = []
    for is_soft in (False, True):
        own = ContextVectors(count=2, soft=is_soft)
        files.append(write(tmp_path / f"{is_soft}.safetensors", own, own.start(tiny(), prompts, 0)))
    values = [[p.interventions[0].values for p in one.steered(prompts, tiny())] for one in files]  # type: ignore[attr-defined]
    assert not torch.equal(*values[0])
    assert [bool(one.any()) for one in values[1]] == [False, False]
    swapped = replace(prompts[0], turns=(*prompts[0].turns[2:4], *prompts[0].turns[:2], *prompts[0].turns[4:]))
    [again] = files[0].steered([swapped], tiny())
    torch.testing.assert_close(again.interventions[0].values, values[0][0])  # type: ignore[attr-defined]
    bare = [remove_demonstrations(one) for one in prompts]
    monkeypatch.setattr(DemonstrationBank, "read", lambda *_: {})
    assert [len(one.interventions) for one in files[0].steered(bare, tiny())] == [1, 1]
    assert [len(one.interventions) for one in files[1].steered(prompts, tiny())] == [1, 1]
