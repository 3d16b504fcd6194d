"""AIM: demonstrations as text that carries what was read with the image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding.arms.inspection import probe_prompt
from decoding.interventions.aim import AIM, explained_share
from decoding.interventions.fit_data import FitData
from decoding.interventions.virtual_tokens import (
    EMBEDDING,
    DemonstrationBank,
    EmbeddingEdit,
    apply_map,
    read_alone,
    ridge_map,
    texts_only,
)  # fmt: skip
from decoding.prompt_edits import remove_demonstrations
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.interventions import Site, Where, steer
from icl.types import Prompt, Turn
from tests.decoding.interventions.dev_split import dev, tiny, write
from tests.random_models.site_checks import check_sites

WIDTH = 160
TEXTS = Where("demo_texts")


def test_the_texts_own_embeddings_give_the_text_only_prompt_bit_for_bit() -> None:
    prompts = [one.prompt.without_images("demos") for one in dev(4, 3)]
    embeddings = tiny().observe(prompts, [EMBEDDING], TEXTS)
    virtual = [
        steer(prompt, EmbeddingEdit(own[EMBEDDING], str(i)))
        for i, (prompt, own) in enumerate(zip(prompts, embeddings, strict=True))
    ]
    assert torch.equal(tiny().open(virtual).logits, tiny().open(prompts).logits)
    moved = [
        steer(prompt, EmbeddingEdit(own[EMBEDDING] + 1, "+")) for prompt, own in zip(prompts, embeddings, strict=True)
    ]
    assert (tiny().open(moved[:1]).logits - tiny().open(prompts[:1]).logits).abs().max() > 0.01


def test_each_demonstration_is_read_once_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = (one.prompt for one in dev(2, 3))
    pairs = [first.turns[i : i + 2] for i in range(0, 16, 2)]
    permuted = replace(first, turns=(*(turn for pair in pairs[::-1] for turn in pair), *other.turns[16:]))
    numbered = replace(permuted, turns=tuple(_numbered(turn, i // 2) for i, turn in enumerate(permuted.turns)))
    assert {read_alone(first, i).digest for i in range(8)} == {read_alone(numbered, i).digest for i in range(8)}
    read: list[int] = []
    observe = HF.observe

    def counted(model: HF, prompts: Sequence[Prompt], *settings: Any) -> Any:
        read.append(len(prompts))
        return observe(model, prompts, *settings)

    monkeypatch.setattr(HF, "observe", counted)
    bank, affine = DemonstrationBank(), torch.randn(WIDTH + 1, WIDTH)
    one, again = (bank.virtual([prompt], tiny(), affine, ())[0] for prompt in (first, numbered))
    assert read == [8]
    size = len(one.interventions[0].values) // 8  # type: ignore[attr-defined]
    blocks = [edit.values.split(size) for edit in (one.interventions[0], again.interventions[0])]  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(blocks[0], blocks[1][::-1], strict=True))
    assert [len(prompt.images) for prompt in (one, again)] == [1, 1]
    bare = remove_demonstrations(first)
    assert bank.virtual([bare], tiny(), affine, ()) == [bare]


def _numbered(turn: Turn, place: int) -> Turn:
    return replace(
        turn,
        parts=tuple(
            replace(part, name=f"demo[{place}].{part.name.partition('.')[2]}") if part.demo is not None else part
            for part in turn.parts
        ),
    )


def test_the_states_are_those_of_the_demonstration_with_its_image() -> None:
    prompt = dev(2, 3)[0].prompt
    last = Site("residual", 3)
    identity = torch.cat([torch.zeros(1, WIDTH), torch.eye(WIDTH)])
    virtual = DemonstrationBank().virtual([prompt], tiny(), identity, ())[0]
    [own] = tiny().observe([prompt], [last], TEXTS)
    values = virtual.interventions[0].values  # type: ignore[attr-defined]
    size = len(values) // 8
    assert values.shape == own[last].shape
    torch.testing.assert_close(values[:size], own[last][:size], atol=1e-4, rtol=0)  # nothing stands before the first
    assert not torch.allclose(values[size:], own[last][size:], atol=1e-2)


def test_texts_do_not_join_where_an_image_stood_between_them() -> None:
    joined = texts_only(probe_prompt(2))
    assert "".join(part.text or "<image>" for part in joined.parts()) == (
        "Which color?red\nWhich color?blue<image>Which color?"
    )
    chat = dev(2, 3)[0].prompt
    assert texts_only(chat) == chat.without_images("demos")


def test_the_site_of_embeddings_conforms() -> None:
    prompts = [one.prompt for one in dev(3, 3)]
    assert list(check_sites(tiny(), prompts, kinds=("embedding",))) == []
    with pytest.raises(ModelError, match=r"has no embedding of layer 1: .* the nearest layer with embedding is 0"):
        tiny().sites.resolve(Site("embedding", 1))


def test_a_ridge_regression_finds_an_affine_map() -> None:
    generator = torch.Generator().manual_seed(0)
    states, true = torch.randn(200, 6, generator=generator), torch.randn(7, 6, generator=generator)
    targets = apply_map(true, states)
    torch.testing.assert_close(ridge_map(states, targets, 1e-9), true, atol=1e-4, rtol=0)
    one = torch.tensor([[-1.0], [1.0]])  # the slope w minimizes 2 (w - 1)^2 + ridge 2 w^2, also if a column is doubled
    torch.testing.assert_close(ridge_map(one, one, 0.25), torch.tensor([[0.0], [0.8]]))
    torch.testing.assert_close(ridge_map(one.expand(2, 2), one, 0.25)[1:].sum(), torch.tensor(8 / 9))
    assert explained_share(apply_map(ridge_map(states, targets, 1e9), states), targets) == pytest.approx(0, abs=1e-3)


def test_a_fit_is_read_by_the_method_and_has_controls(tmp_path: Path) -> None:
    fitted = AIM().fit(FitData(tiny(), dev(4, 3, shots=4), dev(4, 5, shots=4), max_new_tokens=4))
    assert {"few_shot", "zero_shot", "text_only", "aim", "explained"} <= set(fitted.report)
    assert fitted.report["explained"] > 0.9
    method = write(tmp_path / "aim.safetensors", AIM(), fitted)
    prompts = [one.prompt for one in dev(2, 3, shots=4)]
    text_only, random = method.controls()
    assert method.steered(prompts, tiny())[0].interventions
    assert text_only.steered(prompts, tiny()) == [prompt.without_images("demos") for prompt in prompts]
    assert not replace(method, strength=0.0).steered(prompts, tiny())[0].interventions
    digests = {one.steered(prompts, tiny())[0].digest for one in (method, text_only, random)}
    assert len(digests) == 3
    wrong = EmbeddingEdit(torch.zeros(3, WIDTH), "x")
    with pytest.raises(
        ModelError, match=r"virtual tokens: the demonstrations have \d+ text tokens in the prompt, and 3 if each"
    ):
        tiny().open([steer(prompts[0].without_images("demos"), wrong)])
