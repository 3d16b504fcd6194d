"""Vectors with learned weights: gradients, known relations to other vectors, and the control with random directions."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding.interventions.edits import DirectionEdit, VectorEdit, principal_direction, turned
from decoding.interventions.fit_data import FitData
from decoding.interventions.i2cl import I2CL, MixEdit
from decoding.interventions.icv import ICV
from decoding.interventions.ltv import LTV, sliced, weighted
from decoding.interventions.trainable import Unnamed, minimize
from decoding.interventions.vista import Vista
from decoding.prompt_edits import remove_query_image
from icl.errors import ConfigError, DataError, ModelError
from icl.models.hf.gradients import answer_loss, encode_answers
from icl.models.interventions import Site, Where, steer
from tests.decoding.interventions.dev_split import dev, tiny, write


@pytest.fixture(scope="module")
def data() -> FitData:
    return FitData(tiny(), dev(8, 1), dev(8, 2), max_new_tokens=4)


def test_the_loss_is_that_of_the_session_and_its_gradient_that_of_finite_differences() -> None:
    one = dev(8, 1)[0]
    prompt, answer = one.without_demonstrations, one.answers[0]
    items = encode_answers(tiny(), [prompt, dev(8, 1)[1].prompt], [answer, "12"])
    ids = tiny().option_ids(prompt, [answer])[0]
    vector = torch.zeros(160, requires_grad=True)

    def edit(vector: torch.Tensor) -> VectorEdit:
        return VectorEdit({Site("residual", 1): vector}, "add")

    own = tiny().open([steer(prompt, edit(torch.ones(160)))]).suffix_logprobs([[ids]])[0][0]
    by_session = -own.gather(1, torch.tensor(ids)[:, None]).mean()
    assert float(answer_loss(tiny(), items[:1], [edit(torch.ones(160))])) == pytest.approx(float(by_session), abs=1e-4)
    (gradient,) = torch.autograd.grad(answer_loss(tiny(), items, [Unnamed(edit(vector))]), [vector])
    step = 0.01 * gradient / gradient.norm()
    ends = [float(answer_loss(tiny(), items, [edit(step * sign)])) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 0.02 == pytest.approx(float(gradient.norm()), rel=0.02)
    assert all(weight.grad is None for weight in tiny().engine.runner.model.parameters())


def test_a_one_hot_weight_is_the_vector_of_that_head() -> None:
    contributions = torch.randn(3, 4, 8)
    weights = torch.zeros(3, 4)
    weights[1, 2] = 1
    assert torch.equal(weighted(weights, contributions)[1], contributions[1, 2])
    assert not weighted(weights, contributions)[0].any()
    parts = sliced(contributions)
    assert torch.allclose(parts.sum(1), contributions.sum(1))
    assert not parts[0, 1, :2].any()
    with pytest.raises(ConfigError, match="into 3 equal slices, which is impossible"):
        sliced(torch.zeros(1, 3, 8))


def test_learned_weights_lower_the_loss_and_start_at_off(data: FitData, tmp_path: Path) -> None:
    method = write(tmp_path / "ltv.safetensors", LTV(), LTV(prompts="zero_shot", steps=12).fit(data))
    report = method.file.report
    assert report["steered"] > report["zero_shot"]
    assert {"random_directions", "random_directions_loss"} <= set(report)
    assert isinstance(method.intervention(), VectorEdit)
    assert not torch.equal(
        method.intervention().vectors[Site("residual", 2)],  # type: ignore[attr-defined]
        replace(method, control="random").intervention().vectors[Site("residual", 2)],  # type: ignore[attr-defined]
    )
    prompts = [one.without_demonstrations for one in data.choice]
    zero = VectorEdit({Site("residual", 1): torch.zeros(160)})
    assert torch.equal(tiny().open([steer(p, zero) for p in prompts]).logits, tiny().open(prompts).logits)


def test_a_mix_of_weights_zero_and_one_changes_nothing(data: FitData, tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    c = torch.arange(4.0)
    site = Site("mlp", 0)
    assert torch.equal(MixEdit({site: torch.cat([torch.tensor([0.0, 1.0]), c])}).edit(site, x, [0]), x)
    assert torch.allclose(MixEdit({site: torch.cat([torch.tensor([2.0, 0.5]), c])}).edit(site, x, [0]), 0.5 * x + 2 * c)
    method = write(tmp_path / "i2cl.safetensors", I2CL(), I2CL(passes=1).fit(data))
    edit = method.intervention()
    assert isinstance(edit, MixEdit)
    assert edit.where == Where("all", "both")
    assert len(edit.sites) == 8
    half = replace(method, strength=0.5).intervention().mixes[site]  # type: ignore[attr-defined]
    assert torch.allclose(half[:2], (edit.mixes[site][:2] + torch.tensor([0.0, 1.0])) / 2)


def test_weights_are_learned_at_the_rates_of_the_released_schedule(data: FitData) -> None:
    """Against a loop of its own: 5 % of the steps warm up from 0, the cosine of all steps follows."""
    small, passes = replace(data, sources=data.sources[:4], choice=data.choice[:2]), 20
    fitted = I2CL(passes=passes).fit(small)
    sites = (*tiny().sites.all("attention"), *tiny().sites.all("mlp"))
    total, warmup = passes * 4 // 2, int(0.05 * passes * (4 // 2))
    items = encode_answers(
        tiny(), [one.without_demonstrations for one in small.sources], [one.answers[0] for one in small.sources]
    )
    weights = torch.tensor([[0.1, 1.0]] * len(sites), requires_grad=True)
    optimizer = torch.optim.AdamW([weights], weight_decay=1e-3)
    generator = torch.Generator().manual_seed(small.seed)
    for step in range(passes * (4 // 2)):
        share = min(1.0, step / warmup) * (1 + math.cos(math.pi * step / total)) / 2 if step > warmup else step / warmup
        optimizer.param_groups[0]["lr"] = 0.01 * share
        mixes = torch.cat([weights, fitted.tensors["vectors"]], 1)
        batch = [items[i] for i in torch.randperm(4, generator=generator)[:2].tolist()]
        loss = answer_loss(tiny(), batch, [Unnamed(MixEdit(dict(zip(sites, mixes, strict=True))))])
        (weights.grad,) = torch.autograd.grad(loss, [weights])
        optimizer.step()
    assert torch.allclose(fitted.tensors["mixes"][:, :2], weights.detach(), atol=1e-5)


@pytest.mark.parametrize(("sources", "steps"), [(5, 2), (2, 1), (1, 1)])
def test_a_pass_leaves_out_the_rest_of_a_batch(
    sources: int, steps: int, data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the release's loader (`drop_last`), but a pass has at least one step."""
    taken: list[int] = []

    def minimized(*_: object, steps: int, **__: object) -> list[float]:
        taken.append(steps)
        return [0.0]

    monkeypatch.setattr("decoding.interventions.i2cl.minimize", minimized)
    I2CL(passes=3).fit(replace(data, sources=data.sources[:sources], choice=data.choice[:1]))
    assert {*taken} == {3 * steps}


def test_a_step_that_does_not_fit_into_memory_is_a_sentence(data: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("icl.models.hf.gradients.answer_loss", fail)
    with pytest.raises(
        ModelError, match=r"a step with \d+ prompts does not fit into memory: CUDA out of memory. Use a"
    ):
        LTV(steps=1).fit(data)


def test_a_loss_that_is_no_number_stops_the_fit(data: FitData) -> None:
    weight = torch.full((160,), float("nan"), requires_grad=True)
    items = [(one.without_demonstrations, one.answers[0]) for one in data.sources]
    with pytest.raises(DataError, match="the loss of step 1 is not a number"):
        minimize(
            data,
            lambda: [VectorEdit({Site("residual", 1): weight})],
            torch.optim.Adam([weight]),
            items,
            steps=2,
            batch=2,
            what="learning",
        )


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
