"""Directions: the formula by hand, in-context vectors and visual steering on the shipped model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding.interventions.directions import DirectionEdit, turned
from decoding.interventions.fit_data import FitData
from decoding.interventions.icv import ICV, principal_direction
from decoding.interventions.vista import Vista
from decoding.prompt_edits import remove_query_image
from icl.models.interventions import Site, steer
from tests.decoding.interventions.dev_split import dev, tiny, write


def test_the_formula_by_hand() -> None:
    x, u = torch.tensor([[3.0, 4.0], [0.0, -2.0]]), torch.tensor([0.0, 1.0])
    first = torch.tensor([0.6, 0.8 + 0.5])  # cos(x, -u) < 0: lam alone
    second = torch.tensor([0.0, -1 + 0.5 * 2])  # against the direction: twice lam
    expected = torch.stack([5 * first / first.norm(), 2 * second])
    assert torch.allclose(turned(x, u, 0.5), expected, atol=1e-6)
    assert torch.allclose(turned(x, u, 0.3).norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(turned(x, u, 0.0), x, atol=1e-6)


def test_the_principal_direction_has_length_one_over_all_layers() -> None:
    torch.manual_seed(0)
    differences = torch.randn(9, 3, 4) + 10 * torch.randn(9, 1, 1) * torch.eye(4)[0]
    direction = principal_direction(differences)
    assert direction.shape == (3, 4)
    assert float(direction.norm()) == pytest.approx(1, abs=1e-5)
    assert float(direction[:, 0].square().sum()) > 0.9


def test_the_principal_direction_has_the_sign_of_the_released_code() -> None:
    """400 random sets against the eigenvector of the covariance, with the sign by the largest projection."""
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        count = int(torch.randint(2, 12, (), generator=generator))
        differences = torch.randn(count, 4, 8, generator=generator) + torch.randn(1, 4, 8, generator=generator)
        centered = (differences - differences.mean(0)).flatten(1).double()
        expected = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -1]
        projections = centered @ expected
        expected *= 1 if projections.max() > -projections.min() else -1
        if float(projections.abs().topk(2).values.diff().abs()) > 1e-4:  # two differences are mirror images
            assert float(principal_direction(differences).flatten() @ expected.float()) > 0.99, seed


def test_an_in_context_vector_is_the_mean_change_by_the_answer(tmp_path: Path) -> None:
    data = FitData(tiny(), dev(6, 1), dev(6, 2), max_new_tokens=4)
    method = write(tmp_path / "icv.safetensors", ICV(), ICV().fit(data))
    one = data.sources[0]
    site = Site("residual", 1)
    before, after = data.answer_states([site])
    rows = tiny().open([one.without_demonstrations])
    assert before.shape == after.shape == (6, 1, 160)
    assert torch.allclose(before[0, 0], tiny().observe([one.without_demonstrations], [site])[0][site][0], atol=1e-4)
    assert not torch.allclose(before[0], after[0], atol=1e-2)
    prompt = one.without_demonstrations
    edit = method.intervention()
    assert edit.where.part == "both"
    moved = tiny().open([steer(prompt, edit)]).logits
    assert float((moved - rows.logits).abs().max()) > 1e-2
    assert torch.equal(tiny().open([steer(prompt, replace(method, lam=0.0).intervention())]).logits, rows.logits)
    assert [control.control for control in method.controls()] == ["random"]  # type: ignore[attr-defined]


def test_the_visual_direction_is_what_the_image_changes() -> None:
    prompts = [one.prompt for one in dev(20, 3)[:3]]
    steered = Vista().steered(prompts, tiny())
    site = Site("residual", 2)
    with_image, without = (
        tiny().observe([p], [site])[0][site][0] for p in (prompts[0], remove_query_image(prompts[0]))
    )
    edit = steered[0].interventions[0]
    assert isinstance(edit, DirectionEdit)
    assert torch.allclose(edit.directions[Site("mlp", 2)], with_image - without, atol=1e-3)
    opposite = Vista(control="opposite").steered(prompts, tiny())[0].interventions[0]
    assert torch.allclose(opposite.directions[Site("mlp", 2)], without - with_image, atol=1e-3)  # type: ignore[attr-defined]
    assert len({prompt.digest for prompt in steered}) == 3
    assert torch.equal(
        tiny().open([steer(prompts[0], DirectionEdit(edit.directions, 0.0))]).logits, tiny().open(prompts[:1]).logits
    )
    base, moved = tiny().open(prompts).logits, tiny().open(steered).logits
    alone = torch.cat([tiny().open([one]).logits for one in steered])
    assert float((moved - base).abs().max()) > 1e-2
    assert float((moved - alone).abs().max()) < 2e-4
